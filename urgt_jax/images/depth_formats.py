"""Depth maps in the file formats of data sets; numbers stay as the file has them."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image

from urgt_jax.errors import UserError, require

PFM = re.compile(rb"P[fF]\s+(\d+)\s+(\d+)\s+([-+.\deE]+)(?:\r\n|\s)")
ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong with a file, in one line that names it."""
    require(path.is_file(), f"no {what} at {path}")
    require(path.stat().st_size > 0, f"{path} is empty: get the {what} again")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what numpy and Pillow raise on a damaged file is a long list
        raise UserError(f"{path} cannot be read as {what}, get it again: {error}") from error


def read_text(path: Path, what: str) -> str:
    with reading(path, what):
        return path.read_text("utf-8")


def read_words(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a text file that has any."""
    return [line.split() for line in read_text(path, what).splitlines() if line.strip()]


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of a picture turned upright, from its header alone."""
    with reading(path, "picture"), Image.open(path) as file:
        # The base class's, since that of PNGs decodes the whole picture.
        turned = Image.Image.getexif(file).get(ExifTags.Base.Orientation) in ON_THEIR_SIDE
        return file.size if turned else file.size[::-1]


def open_npy(path: Path) -> Float[np.ndarray, "H W"]:
    """A .npy file of floats, mapped into memory."""
    with reading(path, ".npy map"), path.open("rb") as file:
        known = file.read(6) == b"\x93NUMPY"
        require(known, f"{path} is no .npy file: save one array with np.save")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    require(values.dtype.kind == "f", f"{path} has dtype {values.dtype}: save it as float32")
    return values


def open_pfm(path: Path) -> Float[np.ndarray, "H W"]:
    """A grey PFM file of either byte order, top row first, mapped into memory."""
    with reading(path, "PFM map"), path.open("rb") as file:
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


def open_raw32(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Little-endian float32 without a header, row by row, mapped into memory."""
    with reading(path, "raw float32 map"):
        return _floats(path, "<f4", 0, size)


def _floats(path: Path, dtype: str, begin: int, size: tuple[int, int]) -> np.ndarray:
    have, want = path.stat().st_size - begin, 4 * size[0] * size[1]
    require(
        have == want > 0,
        f"{path} holds {have} bytes of depth, but {size[0]} x {size[1]} float32 pixels are "
        f"{want}: get it again",
    )
    with reading(path, "map"):
        return np.memmap(path, dtype, "r", begin, size)


def _float(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read_png16(path: Path) -> Float[np.ndarray, "H W"]:
    """The numbers 0 to 65535 of a 16-bit grey PNG, as float32."""
    with reading(path, "16-bit PNG"), Image.open(path, formats=["PNG"]) as file:
        require(
            file.mode in ("I;16", "I;16B", "I"),
            f"{path} has pixels of mode {file.mode}: a depth map is a 16-bit grey PNG",
        )
        return np.asarray(file).astype(np.float32)


def read_json_object(path: Path) -> dict:
    """What a JSON file says by name."""
    with reading(path, "JSON"):
        told = json.loads(path.read_text("utf-8"))
    require(isinstance(told, dict), f"{path} must be one JSON object, {{...}}")
    return told
