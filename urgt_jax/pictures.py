"""Pictures and maps: read from files with one-line errors, resampled, coloured, written."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from urgt_jax.errors import UserError
from urgt_jax.files import replacing, writing

SMALLEST = 8  # pixels a side, below which there is nothing to refine
STRIP = 256  # rows of a map that are worked on at a time
Image.MAX_IMAGE_PIXELS = 2**29  # Pillow refuses twice as many; 16K pictures have 2^27
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
# From far to near: dark blue, violet, magenta, orange, pale yellow.
RAMP = np.array(
    [[13, 18, 66], [66, 20, 120], [140, 32, 128], [208, 62, 98], [247, 125, 64], [253, 200, 98],
     [252, 250, 208]], np.float32)  # fmt: skip

RGB = UInt8[np.ndarray, "H W 3"]


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


def strips(height: int) -> Iterator[slice]:
    """Rows of a map from the top, some at a time."""
    return (slice(row, min(row + STRIP, height)) for row in range(0, height, STRIP))


class Pointwise:
    """A map that is computed from another pixel by pixel, where it is cut, and never whole."""

    def __init__(self, source: np.ndarray, change: Callable[[np.ndarray], np.ndarray]):
        self.source, self.change, self.shape = source, change, source.shape

    def __getitem__(self, where) -> np.ndarray:
        return self.change(np.asarray(self.source[where]))


def load_map(path: Path, what: str, mapped: bool = False) -> np.ndarray:
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
    extent(values, shape, what)
    return values.astype(np.float32, copy=False)


def extent(values: np.ndarray, shape: tuple[int, ...], what: str) -> tuple[float, float]:
    """Least and largest value; fails unless the map has the shape, floats, and all are finite."""
    if values.shape != shape:
        raise UserError(
            f"{what} has shape {values.shape}, but the picture asks for {shape}: "
            "maps must have the picture's own size"
        )
    if values.dtype.kind != "f":
        raise UserError(f"{what} has dtype {values.dtype}: save it as float32")
    ends, wrong, first = [], 0, None
    for rows in strips(shape[0]):
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


def resized(x: np.ndarray, size: tuple[int, int], lerp: bool = True) -> np.ndarray:
    """The map at another size; bilinear (antialiased when smaller), or nearest for truth.

    Pixel centres lie at one half.
    """
    if x.shape[:2] == tuple(size):
        return x
    if not lerp:
        rows, cols = (
            ((np.arange(want) + 0.5) * have / want).astype(int)
            for want, have in zip(size, x.shape[:2], strict=True)
        )
        return x[rows[:, None], cols]
    if x.dtype == np.uint8:
        return np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BILINEAR))
    planes = x.reshape(*x.shape[:2], -1)
    parts = [_resized_plane(planes[..., i], size) for i in range(planes.shape[-1])]
    return np.stack(parts, -1).reshape(*size, *x.shape[2:])


def _resized_plane(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(x))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def unit(normal: Float[np.ndarray, "H W 3"], least: float = 1e-3) -> Float[np.ndarray, "H W 3"]:
    """Unit normals; towards the camera where one is shorter than `least`."""
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    facing = np.array([0, 0, -1], np.float32)
    return np.where(length > least, normal / np.maximum(length, least), facing).astype(np.float32)


def ramp(x: Float[np.ndarray, "H W"], low: float, high: float) -> RGB:
    """Numbers as colours, dark for low."""
    place = np.clip((x - low) / max(high - low, 1e-12), 0, 1) * (len(RAMP) - 1)
    # A table of 1024 colours is much faster than interpolation at every pixel.
    steps = np.linspace(0, len(RAMP) - 1, 1024)
    table = np.stack([np.interp(steps, np.arange(len(RAMP)), RAMP[:, i]) for i in range(3)], -1)
    return table.round().astype(np.uint8)[(place * (1023 / (len(RAMP) - 1))).astype(np.int16)]


def ends(x: Float[np.ndarray, "H W"] | Pointwise) -> tuple[float, float]:
    """Between which numbers all but the extreme percent at either end lie."""
    step = 4 if x.shape[0] * x.shape[1] > 1e6 else 1
    low, high = np.percentile(x[::step, ::step], (1, 99))
    return float(low), float(high)


def colour_normal(normal: Float[np.ndarray, "H W 3"]) -> RGB:
    """Normals as colours: red to the right, green up, blue towards the camera."""
    turned = normal * np.array([127.5, -127.5, -127.5], np.float32) + np.float32(127.5)
    return np.clip(turned + 0.5, 0, 255).astype(np.uint8)


def write_image(path: Path, image: RGB) -> None:
    """Saves a PNG."""
    with image_rows(path, image.shape[:2]) as add:
        for rows in strips(len(image)):
            add(image[rows])


@contextmanager
def image_rows(path: Path, size: tuple[int, int]) -> Iterator[Callable[[RGB], None]]:
    """Saves a PNG whose rows are given from the top, some at a time."""
    height, width = size
    packer, above = zlib.compressobj(3), np.zeros((1, 3 * width), np.uint8)
    with replacing(path) as file:

        def chunk(kind: bytes, data: bytes) -> None:
            check = struct.pack(">I", zlib.crc32(kind + data))
            file.write(struct.pack(">I", len(data)) + kind + data + check)

        def add(image: RGB) -> None:
            nonlocal above
            rows = np.concatenate([above, image.reshape(len(image), 3 * width)])
            above = rows[-1:]
            if packed := packer.compress(_filtered(rows)):  # it may hold all back for now
                with writing(path):
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
    with replacing(path) as file:
        np.save(file, values, allow_pickle=False)


@contextmanager
def map_rows(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Saves a float32 .npy file whose rows are given from the top, some at a time."""
    with replacing(path) as file:

        def add(values: np.ndarray) -> None:
            with writing(path):
                file.write(np.ascontiguousarray(values, "<f4"))

        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        yield add
