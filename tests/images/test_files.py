"""Image and map files: what is written reads back, and errors name the file."""

import os
import warnings
from unittest.mock import patch

import numpy as np
import pytest
from etils.epath import Path
from helpers.png import png_header
from PIL import Image

from urgt_jax.errors import UserError
from urgt_jax.images import rows as rows_module
from urgt_jax.images.files import (
    image_size,
    map_range,
    map_writer,
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
