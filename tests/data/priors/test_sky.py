"""Where the sky is, as coarse maps say or as images look."""

import numpy as np
import pytest

from urgt_jax.data.priors.given import DISPARITY, METRES, parse_depth_unit
from urgt_jax.data.priors.sky import detect_sky, fit_mask, given_sky

ROWS = np.arange(60)[:, None].repeat(80, 1)
SKY = ROWS < 20
DISPARITY_MAP = np.where(SKY, 0, 0.2 + ROWS / 60).astype(np.float32)


def test_given_sky_is_infinite_depth_or_a_region_of_disparity_0():
    through_leaves = DISPARITY_MAP.copy()
    through_leaves[40, 50] = 0
    np.testing.assert_array_equal(given_sky(through_leaves, DISPARITY), through_leaves == 0)
    metres = np.full((60, 80), 2, np.float32)
    assert given_sky(metres, METRES) is None
    metres[3, 4] = np.inf
    assert given_sky(metres, METRES).sum() == 1


def test_single_zeros_whole_numbers_and_holes_are_not_sky():
    stretched = np.where(SKY, 0.01, DISPARITY_MAP).astype(np.float32)
    stretched[::2, ::2] = 0  # a quarter of the map, but no two pixels touch
    assert given_sky(stretched, DISPARITY) is None
    assert given_sky((255 * DISPARITY_MAP).astype(np.uint8), DISPARITY) is None
    assert given_sky(DISPARITY_MAP, METRES) is None
    assert given_sky(DISPARITY_MAP, parse_depth_unit("inverse")) is None


def picture(rough_sky: bool) -> np.ndarray:
    """An image whose ground is rough."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    return noise if rough_sky else np.where(SKY[..., None], np.uint8(200), noise)


def test_detect_sky_needs_the_far_end_of_the_map_and_a_smooth_image():
    detected = fit_mask(detect_sky(DISPARITY_MAP + 3, picture(rough_sky=False)), (60, 80))
    assert detected[:18].all() and not detected[20:].any()
    assert detect_sky(DISPARITY_MAP, picture(rough_sky=True)) is None


def test_detect_sky_of_a_large_image_is_small():
    image = picture(rough_sky=False).repeat(16, 0).repeat(16, 1)
    sky = detect_sky(DISPARITY_MAP, image)
    assert sky.shape == (384, 512)
    assert sky[:100].all() and not sky[150:].any()


def test_detect_sky_reaches_the_upper_border():
    lower = np.roll(DISPARITY_MAP, 10, 0)
    image = np.roll(picture(rough_sky=False), 10, 0)
    assert detect_sky(lower, image) is None


@pytest.mark.parametrize("size", [(120, 160), (30, 40)])
def test_fit_mask_keeps_the_share_and_has_no_speckles(size):
    fitted = fit_mask(SKY, size)
    rows = np.arange(size[0])[:, None]
    np.testing.assert_array_equal(fitted, np.broadcast_to(rows < size[0] // 3, size))
