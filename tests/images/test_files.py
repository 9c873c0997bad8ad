"""Image and map files: what is written reads back, and errors name the file."""

import os
import sys
import warnings
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from etils.epath import Path
from helpers.png import png_header
from PIL import Image, ImageOps, PngImagePlugin

from urgt_jax.errors import UserError
from urgt_jax.images import files
from urgt_jax.images import rows as rows_module
from urgt_jax.images.files import (
    image_size,
    load_image,
    map_range,
    map_writer,
    read_header,
    read_image,
    read_map,
    write_image,
    write_map,
)


def test_write_image_reads_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    write_image(tmp_path / "x.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), image)
    assert image_size(tmp_path / "x.png") == (40, 33)


def test_read_image_turns_upright_and_scales_16_bits(tmp_path):
    grey = np.arange(8 * 12, dtype=np.uint16).reshape(8, 12) * 257
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left: turn the image to the right
    Image.fromarray(grey).save(tmp_path / "x.png", exif=exif)
    upright = np.rot90(np.arange(8 * 12, dtype=np.uint8).reshape(8, 12), -1)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.stack([upright] * 3, -1))
    assert image_size(tmp_path / "x.png") == (12, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_turns_every_orientation_upright(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "x.png"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.asarray(expected))
    assert image_size(tmp_path / "x.png") == expected.size[::-1]


@pytest.mark.parametrize("form", ["GIF", "JPEG2000", "AVIF", "WEBP", "BMP", "TIFF", "HEIF"])
def test_read_image_reads_what_cameras_and_the_web_use(tmp_path, form):
    if form == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    smooth = np.linspace(40, 200, 64 * 48).reshape(48, 64).astype(np.uint8)
    pixels = np.stack([smooth] * 3, -1)
    Image.fromarray(pixels).save(tmp_path / "x", form)
    image = read_image(tmp_path / "x")
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - pixels).mean() < 3


def test_read_image_asks_for_pillow_heif(tmp_path, monkeypatch):
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r'pillow_heif is not .* pip install "urgt-jax\[heic\]"'):
        read_image(tmp_path / "x.heic")


def test_load_image_says_that_it_takes_the_first_of_several_pictures(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    pixels, notes = load_image(tmp_path / "x.gif")
    assert (pixels[0, 0] == [255, 0, 0]).all()
    assert notes[0].startswith("only the first of its ")


def test_load_image_reads_colours_that_are_floats(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    pixels[0, 0] = 255
    cv2.imwrite(str(tmp_path / "x.tif"), pixels[..., ::-1].astype(np.float32) / 255)
    np.testing.assert_array_equal(load_image(tmp_path / "x.tif").pixels, pixels)
    assert image_size(tmp_path / "x.tif") == (9, 12)


def test_small_tiff_of_enormous_float_colours_is_rejected(tmp_path, monkeypatch):
    zeros = np.zeros((300, 400, 3), np.float32)
    deflate = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE)
    cv2.imwrite(str(tmp_path / "x.tif"), zeros, deflate)
    monkeypatch.setattr(files, "ALWAYS_READ", 1e6)
    for read in (load_image, image_size):
        with pytest.raises(UserError, match="x.tif would unpack to"):
            read(tmp_path / "x.tif")
    monkeypatch.setattr(files, "ALWAYS_READ", 2e6)
    assert load_image(tmp_path / "x.tif").pixels.shape == zeros.shape


def test_read_image_reads_a_png_with_a_long_text(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("history", "edited " * 400_000, zip=True)
    Image.new("RGB", (9, 9), "red").save(tmp_path / "x.png", pnginfo=info)
    assert (read_image(tmp_path / "x.png")[0, 0] == [255, 0, 0]).all()


@pytest.mark.parametrize(
    "tags,focal",
    [
        ({0xA405: 26}, 26 * np.hypot(40, 30) / np.hypot(36, 24)),
        ({0x920A: 4.0, 0xA20E: 100.0, 0xA210: 3, 0xA002: 80}, 20.0),
        ({0x920A: 4.0}, None),
        ({0xA405: 0}, None),
        ({}, None),
    ],
)
def test_read_header_computes_the_focal_length(tmp_path, tags, focal):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg", exif=exif)
    header = read_header(tmp_path / "x.jpg")
    assert header.focal == (focal if focal is None else pytest.approx(focal))
    assert header.size == (30, 40) and header.orientation == 1


def test_read_image_names_what_a_failed_download_leaves(tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("<!DOCTYPE html><title>Not found</title>")
    with pytest.raises(UserError, match="photo.png is a web page, not the image"):
        read_image(path)
    with pytest.raises(UserError, match="photo.png is a web page, not the image"):
        read_header(path)


def test_read_image_does_not_start_ghostscript_for_a_disguised_file(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    path = tmp_path / "photo.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
        b"(ran) (w) file closefile\nshowpage\n%%EOF\n"
    )
    with pytest.raises(UserError, match="photo.png cannot be read"):
        read_image(path)


def test_read_image_leaves_pillows_limit_and_warnings_alone(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    assert limit < 2**27
    filters = list(warnings.filters)
    (tmp_path / "16k.png").write_bytes(png_header(8640, 15360))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(tmp_path / "16k.png") == (8640, 15360)
    with pytest.raises(UserError):
        read_image(tmp_path / "16k.png")
    assert Image.MAX_IMAGE_PIXELS == limit
    assert warnings.filters == filters


def test_read_image_rejects_more_than_2_to_the_28_pixels(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(40_000, 40_000))
    with pytest.raises(UserError, match="bomb.png has 1600000000 pixels: at most 268435456"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (40, 33)])
@pytest.mark.parametrize("strip", [1, 6])
def test_map_writer_writes_what_numpy_loads(tmp_path, monkeypatch, size, strip):
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", strip)
    values = np.random.default_rng(0).standard_normal((*size, 3))
    with map_writer(tmp_path / "x.npy", values.shape) as write:
        for rows in rows_module.row_slices(size[0]):
            write(values[rows])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), values.astype(np.float32))


def test_map_writer_names_its_file_when_the_disk_is_full(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*x.npy: No space left"):
        with map_writer(tmp_path / "x.npy", (2, 3)) as write:
            with patch("numpy.ascontiguousarray", side_effect=OSError(28, "No space left")):
                write(np.zeros((2, 3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="no full disk")
@pytest.mark.parametrize(
    "write,values",
    [
        (write_map, np.zeros((300, 300), np.float32)),
        (write_image, np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)),
    ],
)
def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path, monkeypatch, write, values):
    path_type = type(tmp_path)
    real = path_type.open

    def full(self, *arguments, **options):
        return real(Path("/dev/full") if ".tmp" in self.name else self, *arguments, **options)

    monkeypatch.setattr(path_type, "open", full)
    with pytest.raises(UserError, match="cannot write .*values: No space left"):
        write(tmp_path / "values", values)
    assert not list(tmp_path.iterdir())


def test_map_range_checks_mapped_maps_strip_by_strip(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 4)
    values = np.random.default_rng(0).random((11, 5))
    np.save(tmp_path / "x.npy", values)
    mapped = read_map(tmp_path / "x.npy", "depth", mapped=True)
    assert isinstance(mapped, np.memmap)
    low, high = map_range(mapped, (11, 5), "depth")
    assert low == np.float32(values.min())
    assert high == np.float32(values.max())
    values[6, 2] = np.nan
    values[9, 0] = np.inf
    with pytest.raises(
        UserError, match=r"2 values that are NaN or infinite, the first at \(6, 2\)"
    ):
        map_range(values, (11, 5), "depth")
