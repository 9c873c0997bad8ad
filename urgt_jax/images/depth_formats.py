"""Readers for the depth map formats of data sets. Values stay as they are in the file."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image

from urgt_jax.errors import UserError, require

PFM_HEADER = re.compile(rb"P[fF]\s+(\d+)\s+(\d+)\s+([-+.\deE]+)(?:\r\n|\s)")
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns every failure to read the file into a one-line user error that names it."""
    require(path.is_file(), f"{path}: the {what} is missing")
    require(path.stat().st_size > 0, f"{path} is empty. Download the {what} again")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # numpy and Pillow raise many kinds of error on a damaged file
        raise UserError(f"{path} cannot be read as {what}. Download it again: {error}") from error


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file."""
    with reading(path, what):
        return path.read_text("utf-8")


def read_words(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a text file. Empty lines are left out."""
    lines = read_text(path, what).splitlines()
    return [line.split() for line in lines if line.strip()]


def read_json_object(path: Path) -> dict:
    """The JSON object in a file."""
    with reading(path, "JSON file"):
        values = json.loads(path.read_text("utf-8"))
    require(isinstance(values, dict), f"{path} must hold one JSON object, {{...}}")
    return values


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an upright image, read from its header alone."""
    with reading(path, "image"), Image.open(path) as file:
        # Call the base class, because the getexif of PNG files decodes the whole image.
        exif = Image.Image.getexif(file)
        width, height = file.size
    if exif.get(ExifTags.Base.Orientation) in QUARTER_TURNS:
        return width, height
    return height, width


def open_npy(path: Path) -> Float[np.ndarray, "H W"]:
    """A .npy file of floats, mapped into memory."""
    with reading(path, ".npy map"), path.open("rb") as file:
        is_npy = file.read(6) == b"\x93NUMPY"
        require(is_npy, f"{path} is not a .npy file. Save one array with np.save")
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    require(values.dtype.kind == "f", f"{path} has dtype {values.dtype}. Save it as float32")
    require(
        values.ndim == 2,
        f"{path} has shape {values.shape}. Save an array of shape [height, width]",
    )
    return values


def open_pfm(path: Path) -> Float[np.ndarray, "H W"]:
    """A grey PFM file of either byte order, top row first, mapped into memory."""
    with reading(path, "PFM map"), path.open("rb") as file:
        start = file.read(256)
    require(start[:2] != b"PF", f"{path} is a colour PFM file. A depth map has one channel (Pf)")
    header = PFM_HEADER.match(start)
    require(
        header is not None,
        f"{path} is not a PFM file. It must begin with Pf, width, height and scale",
    )
    width, height = int(header[1]), int(header[2])
    scale_text = header[3].decode()
    scale = _parse_float(scale_text)
    require(
        scale is not None and scale != 0,
        f"{path} has the scale {scale_text}. The scale of a PFM file is a number other than 0",
    )
    dtype = "<f4" if scale < 0 else ">f4"
    values = _map_floats(path, dtype, header.end(), (height, width))
    return values[::-1]  # the file begins with the bottom row


def open_raw32(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """A file of little-endian float32 without a header, row by row, mapped into memory."""
    with reading(path, "raw float32 map"):
        return _map_floats(path, "<f4", 0, size)


def read_png16(path: Path) -> Float[np.ndarray, "H W"]:
    """The values 0 to 65535 of a 16-bit grey PNG, as float32."""
    with reading(path, "16-bit PNG"), Image.open(path, formats=["PNG"]) as file:
        require(
            file.mode in ("I;16", "I;16B", "I"),
            f"{path} has pixels of mode {file.mode}. A depth map must be a 16-bit grey PNG",
        )
        return np.asarray(file).astype(np.float32)


def _map_floats(path: Path, dtype: str, offset: int, size: tuple[int, int]) -> np.ndarray:
    """Maps the floats after `offset` bytes of a file into memory; their number must fit `size`."""
    height, width = size
    stored = path.stat().st_size - offset
    expected = 4 * height * width
    require(
        stored == expected > 0,
        f"{path} holds {stored} bytes of depth, but {height} x {width} float32 pixels need "
        f"{expected}. Download it again",
    )
    with reading(path, "map"):
        return np.memmap(path, dtype, "r", offset, size)


def _parse_float(text: str) -> float | None:
    """The number that a text says, or None."""
    try:
        return float(text)
    except ValueError:
        return None
