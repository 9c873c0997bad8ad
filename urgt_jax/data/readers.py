"""Depth maps and cameras in the formats of data sets; numbers stay as the file has them.

Maps are mapped into memory where the format allows it, so that a window costs its own pixels.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image

from urgt_jax.config import require
from urgt_jax.errors import UserError

PFM = re.compile(rb"P[fF]\s+(\d+)\s+(\d+)\s+([-+.\deE]+)(?:\r\n|\s)")
COLMAP = ("PINHOLE", "OPENCV", "THIN_PRISM_FISHEYE")  # begin with fx, fy, cx, cy
ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong with a file, in one line that names it."""
    require(path.is_file(), f"no {what} at {path}")
    require(path.stat().st_size > 0, f"{path} is empty: get the {what} again")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what numpy and Pillow raise on a damaged file is a long list
        raise UserError(f"{path} cannot be read as {what}, get it again: {error}") from error


def _text(path: Path, what: str) -> str:
    with _reading(path, what):
        return path.read_text("utf-8")


def words(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a text file that has any."""
    return [line.split() for line in _text(path, what).splitlines() if line.strip()]


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of a picture turned upright, from its header alone."""
    with _reading(path, "picture"), Image.open(path) as file:
        # The base class's, since that of PNGs decodes the whole picture.
        turned = Image.Image.getexif(file).get(ExifTags.Base.Orientation) in ON_THEIR_SIDE
        return file.size if turned else file.size[::-1]


def npy(path: Path) -> Float[np.ndarray, "H W"]:
    """A .npy file of floats, mapped into memory."""
    with _reading(path, ".npy map"), path.open("rb") as file:
        known = file.read(6) == b"\x93NUMPY"
        require(known, f"{path} is no .npy file: save one array with np.save")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    require(values.dtype.kind == "f", f"{path} has dtype {values.dtype}: save it as float32")
    return values


def pfm(path: Path) -> Float[np.ndarray, "H W"]:
    """A grey PFM file of either byte order, top row first, mapped into memory."""
    with _reading(path, "PFM map"), path.open("rb") as file:
        head = file.read(256)
    require(head[:2] != b"PF", f"{path} is a PFM in colour: a map has one channel (Pf)")
    found = PFM.match(head)
    require(
        found is not None, f"{path} is no PFM file: it must begin with Pf, width, height, scale"
    )
    width, height, scale = int(found[1]), int(found[2]), _float(found[3])
    require(scale, f"{path}: the scale of a PFM is a number other than 0, not {found[3].decode()}")
    values = _floats(path, "<f4" if scale < 0 else ">f4", found.end(), (height, width))
    return values[::-1]  # the file begins with the bottom row


def raw32(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Little-endian float32 without a header, row by row, mapped into memory."""
    with _reading(path, "raw float32 map"):
        return _floats(path, "<f4", 0, size)


def _floats(path: Path, dtype: str, begin: int, size: tuple[int, int]) -> np.ndarray:
    have, want = path.stat().st_size - begin, 4 * size[0] * size[1]
    require(
        have == want > 0,
        f"{path} holds {have} bytes of depth, but {size[0]} x {size[1]} float32 pixels are "
        f"{want}: get it again",
    )
    with _reading(path, "map"):
        return np.memmap(path, dtype, "r", begin, size)


def _float(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_png16(path: Path) -> Float[np.ndarray, "H W"]:
    """The numbers 0 to 65535 of a 16-bit grey PNG, as float32."""
    with _reading(path, "16-bit PNG"), Image.open(path, formats=["PNG"]) as file:
        require(
            file.mode in ("I;16", "I;16B", "I"),
            f"{path} has pixels of mode {file.mode}: a depth map is a 16-bit grey PNG",
        )
        return np.asarray(file).astype(np.float32)


def json_object(path: Path) -> dict:
    """What a JSON file says by name."""
    with _reading(path, "JSON"):
        told = json.loads(path.read_text("utf-8"))
    require(isinstance(told, dict), f"{path} must be one JSON object, {{...}}")
    return told


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
    lines = _text(path, "calibration").splitlines()
    return _calibration(path, (line.replace("=", ":", 1).partition(":")[::2] for line in lines))


def opencv_xml(path: Path) -> Calibration:
    """Matrices and numbers of an OpenCV FileStorage."""
    with _reading(path, "XML calibration"):
        root = ElementTree.parse(path).getroot()
    return _calibration(path, ((x.tag, x.findtext("data") or x.text or "") for x in root))


def matrix(path: Path, name: str) -> Calibration:
    """A file with the numbers of one matrix and nothing else."""
    return _calibration(path, [(name, _text(path, "camera matrix"))])


class Colmap(NamedTuple):
    """A camera of a COLMAP model, without its distortion."""

    size: tuple[int, int]  # height and width, pixels
    intrinsics: Float[np.ndarray, "4"]  # fx, fy, cx, cy; pixel centres at one half


def colmap_camera(folder: Path, picture: str) -> Colmap:
    """The camera that took a picture, from the cameras.txt and images.txt of a COLMAP model."""
    images, cameras = folder / "images.txt", folder / "cameras.txt"
    lines = _text(images, "list of COLMAP images").splitlines()
    rows = [line.split() for line in lines if line.endswith(f" {picture}")]
    own = next((row[8] for row in rows if len(row) == 10), None)
    require(own is not None, f"{images} does not list {picture}: take both from one archive")
    rows = words(cameras, "list of COLMAP cameras")
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
