"""Images of any number type, transparency and colour space as 8-bit sRGB."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from urgt_jax.errors import UserError
from urgt_jax.images.rgb import to_bytes, to_rgb

BYTES = np.random.default_rng(0).integers(0, 256, (9, 11)).astype(np.uint8)
BYTES[0, 0] = 255


@pytest.mark.parametrize(
    "values,note",
    [
        (BYTES, ""),
        (BYTES.astype(np.uint16) * 257, ""),
        (BYTES.astype(np.int32), ""),
        (BYTES.astype(np.int32) * 257, ""),
        (BYTES.astype(np.float32) / 255, ""),
        (BYTES.astype(np.float64), ""),
        (BYTES.astype(np.float32) * 257, ""),
        (np.where(BYTES == 255, 9, BYTES / np.float32(255)), "values above 1 are shown as white"),
    ],
)
def test_to_bytes_finds_the_range(values, note):
    result, notes = to_bytes(values)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, BYTES)
    assert notes == ([note] if note else [])


def test_to_bytes_hints_at_12_bits_and_takes_them():
    twelve = BYTES.astype(np.uint16) * 16
    dark, [note] = to_bytes(twelve)
    assert dark.max() == 15
    assert note == "no value is above 4080 of 65535: pass --bits 12 if it is too dark"
    right, notes = to_bytes(twelve, bits=12)
    assert np.abs(right.astype(int) - BYTES).max() <= 1 and not notes


def test_to_bytes_rejects_values_of_no_image():
    with pytest.raises(UserError, match="values up to 1e.06, which is not a valid range"):
        to_bytes(np.full((9, 9), 1_000_000, np.int32))


def test_to_bytes_shows_nan_and_negative_values_as_black():
    values = np.float32([[np.nan, -3, 1, np.inf]])
    np.testing.assert_array_equal(to_bytes(values)[0], [[0, 0, 255, 0]])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_to_rgb_shows_transparent_pixels_on_white(mode):
    pixels = np.full((8, 8, 4), (200, 0, 200, 255), np.uint8)
    pixels[:, :4] = (255, 0, 255, 0)  # a colour that nobody is meant to see
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([255, 0, 255, 200, 0, 200])
        image.paste(1, (4, 0, 8, 8))
        image.info["transparency"] = 0
    elif mode == "LA":
        image = image.convert("LA")
    result, notes = to_rgb(image)
    assert notes == ["transparent pixels are shown on white"]
    assert (np.asarray(result)[:, :4] == 255).all()
    assert (np.asarray(result)[:, 4:] != 255).any(-1).all()


def test_to_rgb_says_nothing_about_opacity_that_is_full():
    image = Image.fromarray(np.full((8, 8, 4), 255, np.uint8))
    assert to_rgb(image)[1] == []


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_to_rgb_leaves_srgb_alone_and_ignores_a_damaged_profile():
    image = Image.fromarray(np.stack([BYTES, BYTES // 2, BYTES // 3], -1))
    image.info["icc_profile"] = srgb_profile()
    result, notes = to_rgb(image)
    assert result is image and not notes
    image.info["icc_profile"] = b"damaged"
    result, notes = to_rgb(image)
    assert result is image
    assert notes == ["its colour profile cannot be used and was ignored"]


def test_to_rgb_converts_wide_colours():
    """The full green of a wide gamut is outside sRGB: its red and blue are cut to 0."""
    image = Image.fromarray(np.full((8, 8, 3), (120, 160, 120), np.uint8))
    image.info["icc_profile"] = wide_profile()
    result, [note] = to_rgb(image)
    red, green, blue = np.asarray(result)[0, 0].tolist()
    assert note == "colours converted from Wide to sRGB"
    assert red < 120 and blue < 120 and green > 155


def wide_profile() -> bytes:
    """A profile with the curve of sRGB and the primaries of Adobe RGB, written by hand."""
    source = bytearray(srgb_profile())
    # The D50 colours of Adobe RGB's primaries, in ICC's fixed point.
    primaries = {
        b"rXYZ": (0.60974, 0.31111, 0.01947),
        b"gXYZ": (0.20528, 0.62567, 0.06087),
        b"bXYZ": (0.14919, 0.06322, 0.74457),
    }
    count = int.from_bytes(source[128:132], "big")
    for i in range(count):
        entry = 132 + 12 * i
        tag = bytes(source[entry : entry + 4])
        offset = int.from_bytes(source[entry + 4 : entry + 8], "big")
        length = int.from_bytes(source[entry + 8 : entry + 12], "big")
        if tag in primaries:
            for j, value in enumerate(primaries[tag]):
                start = offset + 8 + 4 * j
                source[start : start + 4] = round(value * 65536).to_bytes(4, "big")
        if tag == b"desc":
            text = "Wide".encode("utf-16-be")
            record = b"mluc" + bytes(4) + (1).to_bytes(4, "big") + (12).to_bytes(4, "big")
            record += b"enUS" + len(text).to_bytes(4, "big") + (28).to_bytes(4, "big") + text
            source[offset : offset + length] = record.ljust(length, b"\0")[:length]
    assert ImageCms.ImageCmsProfile(BytesIO(bytes(source)))
    return bytes(source)


def test_bits_are_about_whole_numbers_and_clip_what_is_above():
    floats = np.array([[0.0, 1.0]], np.float32)
    assert to_bytes(floats, bits=12)[0].max() == 255
    assert to_bytes(np.array([[0, 255, 300]], np.uint16), bits=8)[0].tolist() == [[0, 255, 255]]
