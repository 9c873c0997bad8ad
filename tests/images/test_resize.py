"""Resizing as OpenCV does it: arrays made by opencv-python-headless 4.10 on x86."""

from pathlib import Path

import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.images import resize as resampling

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resampling.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("u8")])
def test_bytes_are_equal_to_the_last_bit(case):
    want = GOLDEN[f"{case}/out"]
    np.testing.assert_array_equal(
        resampling.resize_linear_u8(GOLDEN[f"{case}/in"], *want.shape[:2]), want
    )


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith("u8")])
def test_floats_keep_their_dtype_and_are_close(case):
    resize = getattr(resampling, f"resize_{case.split('_')[0]}")
    want = GOLDEN[f"{case}/out"]
    got = resize(GOLDEN[f"{case}/in"], *want.shape[:2])
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=0 if "cubic_float64" in case else 1e-5)


@pytest.mark.parametrize("name", ["linear", "cubic", "linear_u8"])
def test_a_flat_picture_stays_flat_and_the_same_size_is_a_copy(name):
    resize = getattr(resampling, f"resize_{name}")
    dtype = np.uint8 if name == "linear_u8" else np.float32
    flat = np.full((17, 23, 3), 93, dtype)
    np.testing.assert_allclose(resize(flat, 41, 8), 93, rtol=1e-6)
    same = resize(flat, 17, 23)
    assert same is not flat and (same == flat).all()


def test_no_pixels_are_told():
    with pytest.raises(UserError, match="cannot become"):
        resampling.resize_linear(np.zeros((0, 4), np.float32), 2, 2)
