"""Camera files of public data sets."""

import re
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from urgt_jax.errors import UserError, require
from urgt_jax.files import read_text, read_words, reporting_read_errors
from urgt_jax.images.depth_formats import SINTEL_TAG

# From pixel centres at integers, as in OpenCV and MATLAB, to pixel centres at one half.
TO_HALF_PIXEL_CENTRES = np.array([0, 0, 0.5, 0.5])
COLMAP_MODELS = ("PINHOLE", "OPENCV", "THIN_PRISM_FISHEYE")  # begin with fx, fy, cx, cy


class Calibration(NamedTuple):
    """The named numbers of a calibration file."""

    path: Path
    values: dict[str, list[float]]

    def numbers(self, name: str, count: int) -> Float[np.ndarray, "{count}"]:
        """The `count` finite numbers called `name`; a user error if they are not there."""
        numbers = np.array(self.values.get(name, []), np.float64)
        finite = int(np.isfinite(numbers).sum())
        require(
            len(numbers) == finite == count,
            f"{self.path}: {name} has {len(numbers)} numbers ({finite} finite), not {count} finite "
            "ones. Download the file again",
        )
        return numbers

    def positive(self, name: str) -> float:
        """One number above 0, such as a length."""
        value = float(self.numbers(name, 1)[0])
        require(value > 0, f"{self.path}: {name} is {value:g}. It must be above 0")
        return value

    def intrinsics(self, name: str, columns: int = 3) -> Float[np.ndarray, "4"]:
        """fx, fy, cx, cy of a camera matrix of three rows."""
        matrix = self.numbers(name, 3 * columns).reshape(3, columns)
        fx, fy = matrix[0, 0], matrix[1, 1]
        cx, cy = matrix[0, 2], matrix[1, 2]
        require(
            min(fx, fy) > 0,
            f"{self.path}: {name} has the focal lengths {fx:g} and {fy:g}. They must be above 0",
        )
        return np.array([fx, fy, cx, cy])


class ColmapCamera(NamedTuple):
    """A camera of a COLMAP model, without its distortion."""

    size: tuple[int, int]  # height and width, pixels
    intrinsics: Float[np.ndarray, "4"]  # fx, fy, cx, cy; pixel centres at one half


def read_calibration(path: Path) -> Calibration:
    """Lines of `name=numbers` (Middlebury) or `name: numbers` (KITTI); other lines are skipped."""
    values = {}
    for line in read_text(path, "calibration file").splitlines():
        name, _, text = line.replace("=", ":", 1).partition(":")
        _add_numbers(values, name.strip(), text)
    return Calibration(path, values)


def read_opencv_xml(path: Path) -> Calibration:
    """The matrices and numbers of an OpenCV FileStorage file."""
    with reporting_read_errors(path, "XML calibration file"):
        root = ElementTree.parse(path).getroot()
    values = {}
    for element in root:
        _add_numbers(values, element.tag, element.findtext("data") or element.text or "")
    return Calibration(path, values)


def read_matrix(path: Path, name: str) -> Calibration:
    """A file that holds the numbers of one matrix and nothing else, under the given name."""
    values = {}
    _add_numbers(values, name, read_text(path, "camera matrix"))
    return Calibration(path, values)


def read_sintel_camera(path: Path) -> Calibration:
    """The matrix K of a .cam file of MPI Sintel: a tag, then 9 and 12 numbers of 8 bytes."""
    with reporting_read_errors(path, "camera file"):
        content = path.read_bytes()
    require(
        len(content) == 4 + 8 * 21 and content[:4] == SINTEL_TAG,
        f"{path} is not a .cam file of 172 bytes. Download it again",
    )
    return Calibration(path, {"K": np.frombuffer(content, "<f8", 9, 4).tolist()})


def read_colmap_camera(folder: Path, image: str) -> ColmapCamera:
    """The camera of an image, from the images.txt and cameras.txt of a COLMAP model."""
    camera_id = _colmap_camera_id(folder / "images.txt", image)
    path = folder / "cameras.txt"
    camera = None
    for row in read_words(path, "list of COLMAP cameras"):
        if row[0] == camera_id:
            camera = row
            break
    require(
        camera is not None and len(camera) > 1 and camera[1] in COLMAP_MODELS,
        f"{path} must list camera {camera_id}, which took {image}, with one of the models "
        f"{', '.join(COLMAP_MODELS)}",
    )
    # The columns are the id, the model, width, height and the parameters of the model.
    name = f"width, height, fx, fy, cx, cy of camera {camera_id}"
    values = {}
    _add_numbers(values, name, " ".join(camera[2:8]))
    numbers = Calibration(path, values).numbers(name, 6)
    width, height = int(numbers[0]), int(numbers[1])
    intrinsics = numbers[2:]
    require(
        intrinsics[:2].min() > 0, f"{path}: the focal lengths of camera {camera_id} must be above 0"
    )
    return ColmapCamera((height, width), intrinsics)


def _colmap_camera_id(path: Path, image: str) -> str:
    """The id of the camera that took an image."""
    for line in read_text(path, "list of COLMAP images").splitlines():
        words = line.split()
        # An image's line is its id, a rotation (4), a translation (3), the camera's id, the name.
        if line.endswith(f" {image}") and len(words) == 10:
            return words[8]
    raise UserError(f"{path} does not list {image}. Take both from the same archive")


def _add_numbers(values: dict[str, list[float]], name: str, text: str) -> None:
    """Adds the numbers in a text, unless it holds words, such as a date."""
    words = re.sub(r"[\[\];,]", " ", text).split()
    try:
        values[name] = [float(word) for word in words]
    except ValueError:
        pass
