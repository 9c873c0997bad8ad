"""Reading and writing images and maps. Every problem with a file is one line."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from etils.epath import Path
from PIL import ExifTags, Image, ImageOps

from urgt_jax.errors import UserError, require
from urgt_jax.files import atomic_write, reporting_read_errors, reporting_write_errors
from urgt_jax.images.colour import RGB
from urgt_jax.images.rows import row_slices

SMALLEST = 8  # pixels a side, the least that is worth refining
LARGEST = 2**28  # pixels of an image, which take 0.8 GB; 16K has 2**27
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
# Pillow's names of their formats; cameras write JPEG files with more than one picture (MPO).
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width

_limit_lock = threading.Lock()


def open_image(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image file with Pillow, which reads only the header until pixels are asked for.

    The content decides about the format, not the name. Other formats are not tried: Pillow would
    start Ghostscript for an EPS file, whatever its name.
    """
    # Pillow's limit is a global variable and too low for 16K. It is lifted while a header is read.
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            file = Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    pixels = file.width * file.height
    if pixels > LARGEST:
        file.close()
        raise UserError(f"{path} has {pixels} pixels: at most {LARGEST} can be read. Shrink it")
    return file


def read_image(path: Path) -> RGB:
    """Read an image as 8-bit RGB, turned upright according to its EXIF data."""
    with reporting_read_errors(path, "image"), open_image(path) as file:
        ImageOps.exif_transpose(file, in_place=True)
        image = file
        if file.mode.startswith("I"):  # 16-bit grey
            image = Image.fromarray((np.asarray(file, np.uint32) // 257).astype(np.uint8))
        if image.mode != "RGB":
            image = image.convert("RGB")
        pixels = np.array(image)
    height, width = pixels.shape[:2]
    require(
        min(height, width) >= SMALLEST,
        f"{path} is {height} x {width} pixels. At least {SMALLEST} a side are needed",
    )
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an image turned upright, from its header alone."""
    with reporting_read_errors(path, "image"), open_image(path) as file:
        # The method of the base class: that of PNG images decodes the whole image.
        orientation = Image.Image.getexif(file).get(ExifTags.Base.Orientation)
        if orientation in SIDEWAYS:
            return file.width, file.height
        return file.height, file.width


def write_image(path: Path, image: RGB) -> None:
    """Write a PNG file."""
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, "PNG", compress_level=3)


def read_map(path: Path, what: str, mapped: bool = False) -> np.ndarray:
    """Read the array of a .npy file, or map the file into memory; `map_range` checks the values."""
    require(path.is_file(), f"no {what} at {path}")
    try:
        values = np.load(path, "r" if mapped else None, allow_pickle=False)
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise UserError(
            f"{path} is not a complete .npy file of numbers. Save it again: {error}"
        ) from error
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive of arrays. Save the {what} alone with np.save")
    return values


def check_map(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The map as float32; a UserError unless it has this shape, floats, and all are finite."""
    map_range(values, shape, what)
    return values.astype(np.float32, copy=False)


def map_range(values: np.ndarray, shape: tuple[int, ...], what: str) -> tuple[float, float]:
    """Least and largest value; a UserError unless a map has this shape and finite floats."""
    require(
        values.shape == shape,
        f"{what} has shape {values.shape}, but the image needs {shape}. "
        "Resize the map to the size of its image",
    )
    require(values.dtype.kind == "f", f"{what} has dtype {values.dtype}. Save it as float32")
    low = np.inf
    high = -np.inf
    invalid_count = 0
    first_invalid = None
    for rows in row_slices(shape[0]):
        strip = values[rows].astype(np.float32)
        low = min(low, strip.min())
        high = max(high, strip.max())
        invalid = np.argwhere(~np.isfinite(strip))
        if len(invalid) and first_invalid is None:
            row, *rest = invalid[0].tolist()
            first_invalid = (rows.start + row, *rest)
        invalid_count += len(invalid)
    require(
        invalid_count == 0,
        f"{what} has {invalid_count} values that are NaN or infinite, the first at "
        f"{first_invalid}. Fill them first",
    )
    return float(low), float(high)


def write_map(path: Path, values: np.ndarray) -> None:
    """Write a .npy file."""
    with atomic_write(path) as file:
        np.save(file, values, allow_pickle=False)


@contextmanager
def map_writer(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a float32 .npy file with a function that takes its rows in order, some at a time."""
    with atomic_write(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)

        def write(rows: np.ndarray) -> None:
            with reporting_write_errors(path):
                file.write(np.ascontiguousarray(rows, "<f4"))

        yield write
