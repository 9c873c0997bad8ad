"""Pictures and maps: read from files with one-line errors, resampled, coloured, written."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from urgt_jax.errors import UserError
from urgt_jax.files import replacing

SMALLEST = 8  # pixels a side, below which there is nothing to refine
Image.MAX_IMAGE_PIXELS = 600_000_000  # 16K pictures have 142 million
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
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16") or image.mode == "I":
                image = Image.fromarray((np.asarray(image, np.uint32) // 257).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except Exception as error:  # what Pillow raises on a damaged file is a long list
        why = "it is empty" if path.stat().st_size == 0 else str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture: {why}") from error
    if min(pixels.shape[:2]) < SMALLEST:
        h, w = pixels.shape[:2]
        raise UserError(
            f"{path} is {h} x {w} pixels: too small, at least {SMALLEST} a side are needed"
        )
    return pixels


def load_map(path: Path, what: str) -> np.ndarray:
    """The array in a .npy file; `check_map` tells whether it is a map."""
    if not path.is_file():
        raise UserError(f"no {what} at {path}")
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # what numpy raises on a damaged file is a long list
        raise UserError(f"{path} is not a whole .npy file of numbers: {error}") from error
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path} is an archive: {what} must be one array in a .npy file")
    return values


def check_map(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The map as float32; fails unless it has the shape, a float dtype and only finite values."""
    if values.shape != shape:
        raise UserError(
            f"{what} has shape {values.shape}, but the picture asks for {shape}: "
            "maps must have the picture's own size"
        )
    if values.dtype.kind != "f":
        raise UserError(f"{what} has dtype {values.dtype}: save it as float32")
    values = values.astype(np.float32)
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise UserError(
            f"{what} has {int(wrong.sum())} values that are NaN or infinite, the first at {first}: "
            "fill them before"
        )
    return values


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


def colour_depth(disparity: Float[np.ndarray, "H W"]) -> RGB:
    """Disparity as colours, near is bright; the extreme percent at either end is cut off."""
    low, high = np.percentile(disparity[::4, ::4] if disparity.size > 1e6 else disparity, (1, 99))
    return ramp(disparity, float(low), float(high))


def colour_normal(normal: Float[np.ndarray, "H W 3"]) -> RGB:
    """Normals as colours: red to the right, green up, blue towards the camera."""
    turned = normal * np.array([127.5, -127.5, -127.5], np.float32) + np.float32(127.5)
    return np.clip(turned + 0.5, 0, 255).astype(np.uint8)


def write_image(path: Path, image: RGB) -> None:
    """Saves a PNG."""
    with replacing(path) as file:
        Image.fromarray(image).save(file, "PNG", compress_level=3)


def write_map(path: Path, values: np.ndarray) -> None:
    """Saves a .npy file."""
    with replacing(path) as file:
        np.save(file, values, allow_pickle=False)
