"""Resizing: OpenCV's numbers (golden arrays of opencv-python-headless 4.10 on x86), and our own."""

import numpy as np
import pytest
from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.images.resize import (
    gaussian_blur,
    resize_corners,
    resize_cubic,
    resize_linear,
    resize_map,
    resize_window,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resampling.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
RESIZE = {"linear": resize_linear, "cubic": resize_cubic, "u8": resize_linear}
WHOLE = (slice(None), slice(None))


@pytest.mark.parametrize("case", CASES)
def test_resize_is_opencvs_and_keeps_the_dtype(case):
    resize = RESIZE[case.split("_")[0]]
    want = GOLDEN[f"{case}/out"]
    resized = resize(GOLDEN[f"{case}/in"], *want.shape[:2])
    assert resized.dtype == want.dtype
    exact = case.startswith("u8") or "cubic_float64" in case
    np.testing.assert_allclose(resized, want, rtol=0, atol=0 if exact else 1e-6)


@pytest.mark.parametrize(
    "resize,dtype",
    [
        (resize_linear, np.float32),
        (resize_linear, np.uint8),
        (resize_cubic, np.float32),
        (resize_corners, np.float32),
    ],
)
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_resize_keeps_a_flat_image_flat_and_copies_at_the_same_size(resize, dtype, channels):
    flat = np.full((17, 23, *channels), 93, dtype)
    resized = resize(flat, 41, 8)
    assert resized.shape == (41, 8, *channels)
    np.testing.assert_allclose(resized, 93, rtol=1e-6)
    same = resize(flat, 17, 23)
    assert same is not flat
    np.testing.assert_array_equal(same, flat)


def test_resize_rejects_an_image_without_pixels():
    with pytest.raises(UserError, match="0 x 4 pixels cannot be resized to 2 x 2"):
        resize_linear(np.zeros((0, 4), np.float32), 2, 2)


def test_resize_corners_keeps_corners_on_corners():
    x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    np.testing.assert_allclose(resize_corners(x, 1, 9)[0, :, 0], np.arange(9) / 2)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 13), (40, 70), (5, 6), (1, 30), (30, 1)])
@pytest.mark.parametrize("shape", [(9, 13), (1, 4, 3), (6, 1)])
def test_resize_window_has_the_bits_of_the_whole(shape, size, align_corners):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    whole = resize_window(x, *size, WHOLE, align_corners)
    if not align_corners:
        np.testing.assert_allclose(whole, resize_linear(x, *size), atol=1e-6)
    for _ in range(10):
        top, bottom = np.sort(rng.choice(size[0] + 1, 2, False))
        left, right = np.sort(rng.choice(size[1] + 1, 2, False))
        window = slice(top, bottom), slice(left, right)
        part = resize_window(x, *size, window, align_corners)
        np.testing.assert_array_equal(part, whole[window])


def test_resize_window_reads_only_its_rows():
    x = np.full((100, 10), np.nan, np.float32)
    x[40:52] = 1
    part = resize_window(x, 1000, 100, (slice(410, 500), slice(None)), True)
    assert part.shape == (90, 100)
    assert (part == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_resize_map_averages_when_smaller_and_takes_pixels_when_nearest(dtype):
    stripes = np.tile(np.array([0, 200], dtype), (8, 4))[..., None].repeat(3, -1)
    averaged = resize_map(stripes, (4, 4))
    assert averaged.dtype == dtype
    np.testing.assert_allclose(averaged[:, 1:3], 100, atol=1)
    nearest = resize_map(stripes, (4, 4), interpolate=False)
    np.testing.assert_array_equal(nearest, stripes[1::2, 1::2])
    assert resize_map(stripes, (8, 8)) is stripes


def test_gaussian_blur_turns_a_point_into_a_gaussian_and_repeats_the_border():
    x = np.zeros((41, 51, 1), np.float32)
    x[20, 25] = 1
    blurred = gaussian_blur(x, 4.0)
    rows, columns = np.indices((41, 51))
    gaussian = np.exp(-((rows - 20) ** 2 + (columns - 25) ** 2) / (2 * 4.0**2))
    np.testing.assert_allclose(blurred[..., 0], gaussian / gaussian.sum(), atol=1e-4)
    np.testing.assert_allclose(gaussian_blur(np.full((6, 9), 7, np.float32), 4.0), 7, rtol=1e-6)
