"""Reading and writing images and maps. Every problem with a file is one line."""

import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from etils.epath import Path
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, IMAGELENGTH, IMAGEWIDTH, SAMPLESPERPIXEL

from urgt_jax.errors import UserError, import_extra, require
from urgt_jax.files import (
    atomic_write,
    check_downloaded,
    load_npy,
    reporting_read_errors,
    reporting_write_errors,
)
from urgt_jax.images.colour import RGB
from urgt_jax.images.rgb import to_bytes, to_rgb
from urgt_jax.images.rows import row_slices
from urgt_jax.remote import readable

SMALLEST = 8  # pixels a side, the least that is worth refining
LARGEST = 2**28  # pixels of an image, which take 0.8 GB; 16K has 2**27
ALWAYS_READ = 500e6  # bytes that a map may unpack to, however small its file is
HIGHEST_RATIO = 20  # of a larger map's bytes to its file's; those of real maps are far below
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
# Pillow's names of their formats; cameras write JPEG files with more than one picture (MPO).
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "AVIF")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")  # formats of several pictures, or pages
# Marks of HEIC files after "ftyp", which Pillow opens with the help of pillow_heif.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
BIG_TIFF = 43  # the version of TIFF files with 64-bit offsets
LONGEST_TEXT = 2**26  # bytes of a text in a PNG file; programs store their whole history in one
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
FULL_FRAME = math.hypot(36, 24)  # diagonal of 35 mm film, millimetres
MILLIMETRES = {2: 25.4, 3: 10.0}  # of EXIF's units of the resolution: inch and centimetre

_limit_lock = threading.Lock()


def open_image(path: Path, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Open an image file with Pillow, which reads only the header until pixels are asked for.

    The content decides about the format, not the name. Other formats are not tried: Pillow would
    start Ghostscript for an EPS file, whatever its name.
    """
    if formats == FORMATS and _is_heic(path):
        import_extra("pillow_heif", "heic").register_heif_opener()
        formats = ("HEIF",)
    # Pillow's limits are global variables, and too low for 16K and for the text of some PNG files.
    # They are lifted while a header is read.
    with _limit_lock:
        limits = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, LONGEST_TEXT
        try:
            Image.init()
            known = [name for name in formats if name in Image.OPEN]  # Pillow 11.3 brought AVIF
            file = Image.open(readable(path), formats=known)
        finally:
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits
    pixels = file.width * file.height
    if pixels > LARGEST:
        file.close()
        raise UserError(f"{path} has {pixels} pixels: at most {LARGEST} can be read. Shrink it")
    return file


def _is_heic(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


class LoadedImage(NamedTuple):
    """An image, and what had to be decided when it was read."""

    pixels: RGB
    notes: list[str]


def read_image(path: Path) -> RGB:
    """Read an image as 8-bit sRGB, turned upright according to its EXIF data."""
    return load_image(path).pixels


def load_image(path: Path, bits: int | None = None) -> LoadedImage:
    """Read an image as `read_image` does, with notes; see `rgb.to_rgb` about `bits`."""
    with reporting_read_errors(path, "image"):
        try:
            file = open_image(path)
        except UnidentifiedImageError:
            return _load_float_colours(path)
        with file:
            orientation = file.getexif().get(ExifTags.Base.Orientation)
            notes = []
            if file.format in ANIMATED and getattr(file, "is_animated", False):
                notes.append(f"only the first of its {file.n_frames} images is used")
                file.seek(0)
            image, more = to_rgb(file, bits)
            pixels = np.array(image)
    pixels = _turn_upright(pixels, orientation)
    _check_smallest(path, pixels.shape[:2])
    return LoadedImage(pixels, notes + more)


def _load_float_colours(path: Path) -> LoadedImage:
    """A TIFF file with colours that are floats, which Pillow does not know."""
    with path.open("rb") as file:
        check_downloaded(path, file.read(64), "image")
    values = decode_any_numbers(path) if is_tiff(path) else None
    formats = ", ".join(FORMATS)
    require(
        values is not None and values.ndim == 3 and values.shape[2] >= 3,
        f"{path} cannot be read. Save or download the image again, in one of the formats {formats}",
    )
    pixels, notes = to_bytes(values[..., 2::-1])
    return LoadedImage(np.ascontiguousarray(pixels), notes)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF file does."""
    with path.open("rb") as file:
        return file.read(2) in (b"II", b"MM")


def decode_any_numbers(path: Path) -> np.ndarray | None:
    """The numbers of a TIFF or PNG file, whatever their type; None if they cannot be read.

    Colours are in OpenCV's order. A PNG file must have been opened by `open_image` before, which
    knows its size.
    """
    if is_tiff(path):
        check_unpacked_size(path, _unpacked_tiff_size(path))
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def _unpacked_tiff_size(path: Path) -> int:
    """Bytes of the first picture in a TIFF file."""
    with path.open("rb") as file:
        start = file.read(8)
        if BIG_TIFF in start[2:4]:
            start += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
    pixels = tags.get(IMAGEWIDTH, 0) * tags.get(IMAGELENGTH, 0)
    require(pixels > 0, f"{path} is not a complete TIFF file. Save or download it again")
    bits = max(tags.get(BITSPERSAMPLE, (8,)))
    return pixels * tags.get(SAMPLESPERPIXEL, 1) * bits // 8


def _turn_upright(
    pixels: UInt8[np.ndarray, "h w 3"], orientation: int | None
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels as they are seen, given the orientation of EXIF.

    Pillow's own function rewrites the EXIF data, which fails where a camera wrote odd numbers.
    """
    if orientation in (5, 7):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 7):
        pixels = np.rot90(pixels, 2)
    elif orientation == 2:
        pixels = pixels[:, ::-1]
    elif orientation == 4:
        pixels = pixels[::-1]
    elif orientation == 6:
        pixels = np.rot90(pixels, -1)
    elif orientation == 8:
        pixels = np.rot90(pixels)
    return np.ascontiguousarray(pixels)


def _check_smallest(path: Path, size: tuple[int, int]) -> None:
    height, width = size
    require(
        min(height, width) >= SMALLEST,
        f"{path} is {height} x {width} pixels. At least {SMALLEST} a side are needed",
    )


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]  # height and width of the image turned upright, pixels
    orientation: int  # of EXIF; above 1 if the image has to be turned or mirrored
    focal: float | None  # focal length, pixels of the image; None if the header has none


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image; its pixels are not decoded."""
    with reporting_read_errors(path, "image"):
        try:
            file = open_image(path)
        except UnidentifiedImageError:
            return ImageHeader(_load_float_colours(path).pixels.shape[:2], 1, None)
        # The method of the base class: that of PNG images decodes the whole image.
        with file:
            exif = Image.Image.getexif(file)
            orientation = exif.get(ExifTags.Base.Orientation, 1)
            if orientation not in range(1, 9):
                orientation = 1
            size = (file.height, file.width)
            if orientation in SIDEWAYS:
                size = (file.width, file.height)
            _check_smallest(path, size)
            return ImageHeader(size, orientation, _focal_length(exif, file.size))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of an image turned upright, from its header alone."""
    return read_header(path).size


def _focal_length(exif: Image.Exif, size: tuple[int, int]) -> float | None:
    """The focal length in pixels of an image of this width and height, as its camera stored it."""
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    equivalent = _number(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if equivalent:
        return equivalent * math.hypot(*size) / FULL_FRAME
    length = _number(tags.get(ExifTags.Base.FocalLength))
    resolution = _number(tags.get(ExifTags.Base.FocalPlaneXResolution))
    unit = MILLIMETRES.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    stored_width = _number(tags.get(ExifTags.Base.ExifImageWidth)) or size[0]
    if length and resolution and unit:
        return length * resolution / unit * size[0] / stored_width
    return None


def _number(value: object) -> float:
    """A number of EXIF; 0 where it is missing, damaged or not above 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):  # a rational may be -1/0
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def write_image(path: Path, image: RGB | Bool[np.ndarray, "H W"]) -> None:
    """Write a PNG file; a mask becomes black and white."""
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, "PNG", compress_level=3)


def encode_jpeg(image: RGB, largest: int) -> bytes:
    """The content of a JPEG file of the image, shrunk to at most `largest` pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((largest, largest))
    file = BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()


def read_map(path: Path, what: str, mapped: bool = False) -> np.ndarray:
    """Read the array of a .npy file, or map the file into memory; `map_range` checks the values."""
    require(path.is_file(), f"no {what} at {path}")
    try:
        values = load_npy(path, mapped)
    except Exception as error:  # numpy raises many kinds of errors on damaged files
        raise UserError(
            f"{path} is not a complete .npy file of numbers. Save it again: {error}"
        ) from error
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive of arrays. Save the {what} alone with np.save")
    return values


def largest_unpacked_size(path: Path) -> float:
    """Bytes that the maps in a file may unpack to."""
    return max(ALWAYS_READ, HIGHEST_RATIO * path.stat().length)


def check_unpacked_size(path: Path, size: float) -> None:
    """Fail for a small file that would unpack to an enormous map, of this many bytes or more."""
    require(
        size <= largest_unpacked_size(path),
        f"{path} would unpack to {size / 1e9:.1f} GB. Save the map as .npy, or smaller",
    )


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


class ScratchMap:
    """A float32 map on disk that has no name: it is gone when it is closed or the process ends."""

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self.folder = folder
        self.shape = shape
        with reporting_write_errors(folder):
            self.file = tempfile.TemporaryFile(dir=folder)

    def write(self, rows: np.ndarray) -> None:
        """Append rows of the map."""
        with reporting_write_errors(self.folder):
            self.file.write(np.ascontiguousarray(rows, "<f4"))

    def read(self) -> np.ndarray:
        """The map, once all its rows are written, mapped into memory."""
        with reporting_write_errors(self.folder):
            self.file.flush()
        return np.memmap(self.file, "<f4", "r", shape=self.shape)

    def __enter__(self) -> "ScratchMap":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be flushed is not needed any more
            self.file.close()
