"""Reads and writes images and maps; every problem with a file is one line."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from urgt_jax.errors import UserError
from urgt_jax.files import atomic_write, reporting_write_errors
from urgt_jax.images.colour import RGB
from urgt_jax.images.rows import row_slices

SMALLEST = 8  # pixels a side, below which there is nothing to refine
Image.MAX_IMAGE_PIXELS = 2**29  # Pillow refuses twice as many; 16K pictures have 2^27


warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")


def read_image(path: Path) -> RGB:
    """A picture as 8-bit RGB, turned upright as its EXIF data say."""
    if not path.is_file():
        raise UserError(f"no picture at {path}")
    try:
        with Image.open(path) as file:
            ImageOps.exif_transpose(file, in_place=True)
            image = file
            if image.mode.startswith("I;16") or image.mode == "I":
                image = Image.fromarray((np.asarray(image, np.uint32) // 257).astype(np.uint8))
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # what Pillow raises on a damaged file is a long list
        why = "it is empty" if path.stat().st_size == 0 else str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture: {why}") from error
    if min(pixels.shape[:2]) < SMALLEST:
        h, w = pixels.shape[:2]
        raise UserError(
            f"{path} is {h} x {w} pixels: too small, at least {SMALLEST} a side are needed"
        )
    return pixels


def read_map(path: Path, what: str, mapped: bool = False) -> np.ndarray:
    """The array in a .npy file, left there if mapped; `check_map` tells whether it is a map."""
    if not path.is_file():
        raise UserError(f"no {what} at {path}")
    try:
        values = np.load(path, "r" if mapped else None, allow_pickle=False)
    except Exception as error:  # what numpy raises on a damaged file is a long list
        raise UserError(f"{path} is not a whole .npy file of numbers: {error}") from error
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive: {what} must be one array in a .npy file")
    return values


def check_map(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The map as float32; fails where `extent` does."""
    check_extent(values, shape, what)
    return values.astype(np.float32, copy=False)


def check_extent(values: np.ndarray, shape: tuple[int, ...], what: str) -> tuple[float, float]:
    """Least and largest value; fails unless the map has the shape, floats, and all are finite."""
    if values.shape != shape:
        raise UserError(
            f"{what} has shape {values.shape}, but the picture asks for {shape}: "
            "maps must have the picture's own size"
        )
    if values.dtype.kind != "f":
        raise UserError(f"{what} has dtype {values.dtype}: save it as float32")
    ends, wrong, first = [], 0, None
    for rows in row_slices(shape[0]):
        strip = values[rows].astype(np.float32)
        ends += [strip.min(), strip.max()]
        if np.isfinite(ends[-2:]).all():
            continue
        unknown = np.argwhere(~np.isfinite(strip))
        wrong, first = wrong + len(unknown), first or (rows.start + unknown[0][0], *unknown[0][1:])
    if first:
        raise UserError(
            f"{what} has {wrong} values that are NaN or infinite, the first at "
            f"{tuple(map(int, first))}: fill them before"
        )
    return float(min(ends)), float(max(ends))


def write_image(path: Path, image: RGB) -> None:
    """Saves a PNG."""
    with open_image(path, image.shape[:2]) as add:
        for rows in row_slices(len(image)):
            add(image[rows])


@contextmanager
def open_image(path: Path, size: tuple[int, int]) -> Iterator[Callable[[RGB], None]]:
    """Saves a PNG whose rows are given from the top, some at a time."""
    height, width = size
    packer, above = zlib.compressobj(3), np.zeros((1, 3 * width), np.uint8)
    with atomic_write(path) as file:

        def chunk(kind: bytes, data: bytes) -> None:
            check = struct.pack(">I", zlib.crc32(kind + data))
            file.write(struct.pack(">I", len(data)) + kind + data + check)

        def add(image: RGB) -> None:
            nonlocal above
            rows = np.concatenate([above, image.reshape(len(image), 3 * width)])
            above = rows[-1:]
            if packed := packer.compress(_filtered(rows)):  # it may hold all back for now
                with reporting_write_errors(path):
                    chunk(b"IDAT", packed)

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        yield add
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def _filtered(rows: UInt8[np.ndarray, "r+1 n"]) -> UInt8[np.ndarray, "r n+1"]:
    """All rows but the first, each less what PNG's filters Sub, Up or Paeth make of neighbours."""
    here, up = rows[1:], rows[:-1]
    left, corner = (np.pad(x[:, :-3], [(0, 0), (3, 0)]) for x in (here, up))
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    of_a, of_b, of_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((of_a <= of_b) & (of_a <= of_c), left, np.where(of_b <= of_c, up, corner))
    ways = {1: here - left, 2: here - up, 4: here - paeth}
    cost = [np.minimum(x, -x).sum(1, dtype=np.int64) for x in ways.values()]
    best = np.array([*ways], np.uint8)[np.argmin(cost, 0)][:, None]
    chosen = np.select([best == kind for kind in ways], [*ways.values()])
    return np.concatenate([best, chosen], 1)


def write_map(path: Path, values: np.ndarray) -> None:
    """Saves a .npy file."""
    with atomic_write(path) as file:
        np.save(file, values, allow_pickle=False)


@contextmanager
def open_map(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Saves a float32 .npy file whose rows are given from the top, some at a time."""
    with atomic_write(path) as file:

        def add(values: np.ndarray) -> None:
            with reporting_write_errors(path):
                file.write(np.ascontiguousarray(values, "<f4"))

        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        yield add
