"""Camera files of public data sets."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from urgt_jax.errors import require
from urgt_jax.images.depth_formats import read_text, read_words, reading

COLMAP = ("PINHOLE", "OPENCV", "THIN_PRISM_FISHEYE")  # begin with fx, fy, cx, cy


class Calibration(NamedTuple):
    """Numbers by name, and the file they stand in."""

    path: Path
    values: dict[str, list[float]]

    def numbers(self, name: str, count: int) -> Float[np.ndarray, "count"]:
        """As many finite numbers, matrices row by row; a user error if they are not there."""
        found = np.array(self.values.get(name, []), np.float64)
        finite = int(np.isfinite(found).sum())
        require(
            len(found) == finite == count,
            f"{self.path}: {name} has {finite} finite numbers, not {count}: get the file again",
        )
        return found

    def positive(self, name: str) -> float:
        """One number above 0, such as a length."""
        value = float(self.numbers(name, 1)[0])
        require(value > 0, f"{self.path}: {name} must be above 0, not {value:g}")
        return value

    def camera(self, name: str, columns: int = 3) -> Float[np.ndarray, "4"]:
        """fx, fy, cx, cy of a matrix of three rows."""
        matrix = self.numbers(name, 3 * columns).reshape(3, columns)
        camera = matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
        require(camera[:2].min() > 0, f"{self.path}: the focal lengths in {name} must be above 0")
        return camera


def _calibration(path: Path, told: Iterable[tuple[str, str]]) -> Calibration:
    values = {}
    for name, text in told:
        try:
            values[name.strip()] = [float(word) for word in re.sub(r"[\[\];,]", " ", text).split()]
        except ValueError:
            pass  # words, such as a date
    return Calibration(path, values)


def calibration(path: Path) -> Calibration:
    """Lines of `name=numbers` (Middlebury) or `name: numbers` (KITTI); other lines are skipped."""
    lines = read_text(path, "calibration").splitlines()
    return _calibration(path, (line.replace("=", ":", 1).partition(":")[::2] for line in lines))


def opencv_xml(path: Path) -> Calibration:
    """Matrices and numbers of an OpenCV FileStorage."""
    with reading(path, "XML calibration"):
        root = ElementTree.parse(path).getroot()
    return _calibration(path, ((x.tag, x.findtext("data") or x.text or "") for x in root))


def matrix(path: Path, name: str) -> Calibration:
    """A file with the numbers of one matrix and nothing else."""
    return _calibration(path, [(name, read_text(path, "camera matrix"))])


class Colmap(NamedTuple):
    """A camera of a COLMAP model, without its distortion."""

    size: tuple[int, int]  # height and width, pixels
    intrinsics: Float[np.ndarray, "4"]  # fx, fy, cx, cy; pixel centres at one half


def colmap_camera(folder: Path, picture: str) -> Colmap:
    """The camera that took a picture, from the cameras.txt and images.txt of a COLMAP model."""
    images, cameras = folder / "images.txt", folder / "cameras.txt"
    lines = read_text(images, "list of COLMAP images").splitlines()
    rows = [line.split() for line in lines if line.endswith(f" {picture}")]
    own = next((row[8] for row in rows if len(row) == 10), None)
    require(own is not None, f"{images} does not list {picture}: take both from one archive")
    rows = read_words(cameras, "list of COLMAP cameras")
    row = next((row for row in rows if row[0] == own), [])
    require(
        len(row) > 1 and row[1] in COLMAP,
        f"{cameras}: camera {own}, which took {picture}, must be there and have one of the models "
        f"{', '.join(COLMAP)}",
    )
    name = f"width, height, fx, fy, cx, cy of camera {own}"
    found = _calibration(cameras, [(name, " ".join(row[2:8]))]).numbers(name, 6)
    require(found[2:4].min() > 0, f"{cameras}: the focal lengths of camera {own} must be above 0")
    return Colmap((int(found[1]), int(found[0])), found[2:])
