"""Readers of depth maps."""

import numpy as np
import pytest
from helpers.public_sets import random_depth, write_pfm, write_png16

from urgt_jax.images.depth_formats import open_pfm, open_raw32, read_png16


@pytest.mark.parametrize("order", ["<", ">"])
def test_open_pfm_reads_either_byte_order(tmp_path, order):
    values, _ = random_depth()
    write_pfm(tmp_path / "a.pfm", values, order)
    np.testing.assert_array_equal(open_pfm(tmp_path / "a.pfm"), values)


def test_open_raw32_reads_rows_from_the_top(tmp_path):
    values, _ = random_depth()
    (tmp_path / "a.raw").write_bytes(values.astype("<f4").tobytes())
    np.testing.assert_array_equal(open_raw32(tmp_path / "a.raw", values.shape), values)


def test_read_png16_keeps_all_sixteen_bits(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    write_png16(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_png16(tmp_path / "a.png"), values)
