"""Images of any kind of number, colour or transparency as 8-bit sRGB, with notes for the user."""

from io import BytesIO

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

from urgt_jax.errors import require

WHITE = (255, 255, 255, 255)
# A float image above this is in 0..255. Between 1 and this it is in 0..1 with bright lights.
BRIGHTEST = 16.0
DARK = 4096  # a 16-bit image whose values are all below this is dark, or has fewer bits


def to_rgb(image: Image.Image, bits: int | None = None) -> tuple[Image.Image, list[str]]:
    """The image as 8-bit sRGB, and notes about what had to be decided.

    `bits` says how many bits of a 16-bit grey image are in use. Transparent pixels are shown on
    white.
    """
    notes = []
    if image.mode == "F" or image.mode.startswith("I"):
        values, notes = to_bytes(np.asarray(image), bits)
        image = Image.fromarray(values)
    if image.has_transparency_data:
        image, is_transparent = _on_white(image)
        if is_transparent:
            notes.append("transparent pixels are shown on white")
    image, note = _to_srgb(image)
    if note:
        notes.append(note)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image, notes


def to_bytes(
    values: Shaped[np.ndarray, "H W *C"], bits: int | None = None
) -> tuple[UInt8[np.ndarray, "H W *C"], list[str]]:
    """Floats in 0..1, or whole numbers of more than 8 bits, as bytes, and notes.

    A UserError if the values have no range that images have.
    """
    notes = []
    if values.dtype == np.uint8:
        return values, notes
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    high = values.max()
    if values.dtype.kind == "f":
        bits = None  # it is about whole numbers
    white = 65535
    if bits is not None:
        white = 2**bits - 1
    elif values.dtype.kind == "f" and high <= BRIGHTEST:
        white = 1
        if high > 1:
            notes.append("values above 1 are shown as white")
    elif values.dtype.itemsize > 2 and high <= 255:
        white = 255
    require(
        high <= white or white == 1 or bits is not None,
        f"the image has values up to {high:g}, which is not a valid range. Scale it to 0..65535",
    )
    if white == 65535 and high < DARK and values.dtype.kind in "ui" and bits is None:
        used = max(8, int(high).bit_length())
        notes.append(f"no value is above {high} of 65535: pass --bits {used} if it is too dark")
    if white == 65535 and values.dtype.kind in "ui":
        return (np.clip(values, 0, white) // 257).astype(np.uint8), notes
    scaled = np.clip(values, 0, white) * np.float32(255 / white)
    return np.round(scaled).astype(np.uint8), notes


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image over white, and whether any pixel was transparent."""
    profile = image.info.get("icc_profile")
    image = image.convert("RGBA")
    lowest, _ = image.getchannel("A").getextrema()
    if lowest < 255:
        background = Image.new("RGBA", image.size, WHITE)
        background.alpha_composite(image)
        image = background
    image = image.convert("RGB")
    if profile:
        image.info["icc_profile"] = profile
    return image, lowest < 255


def _to_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """The image with the colours of sRGB, and a note if they were others."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image, ""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        if "srgb" in name.lower():
            return image, ""
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image, "its colour profile cannot be used and was ignored"
    return converted, f"colours converted from {name} to sRGB"
