"""The sky of an image: where its coarse depth map is infinitely far."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

from urgt_jax.data.priors.given import DISPARITY, DepthUnit
from urgt_jax.images.colour import RGB
from urgt_jax.images.resize import resize_map
from urgt_jax.images.rows import row_slices

SMALLEST_SKY = 0.005  # share of the map; smaller regions of disparity 0 are just its minimum
DETECTION_SIZE = 512  # pixels of the longer side at which the sky is looked for
FAR_END = 0.05  # of the range of disparity, from its minimum
SMOOTH_OVER = 5  # pixels at that size over which contrast is averaged
MAX_CONTRAST = 6.0  # grey levels of 255 between neighbours in a smooth part of the image


def given_sky(values: Shaped[np.ndarray, "H W"], unit: DepthUnit) -> Bool[np.ndarray, "H W"] | None:
    """Pixels that a coarse map puts infinitely far; None if there are none.

    Depth is infinite there. Disparity is exactly 0, also in a large region: a single 0 may be no
    more than the minimum of a map that was stretched to 0..1, and so may every 0 of integers.
    """
    if values.dtype.kind != "f" or unit.kind == "inverse":
        return None
    sky = np.empty(values.shape, bool)
    for rows in row_slices(len(values)):
        strip = np.asarray(values[rows])
        sky[rows] = strip == 0 if unit == DISPARITY else np.isposinf(strip)
    if unit == DISPARITY:
        step = max(1, max(sky.shape) // DETECTION_SIZE)  # a large map is looked at in less memory
        if not _large_regions(sky[::step, ::step]).any():
            return None
    return sky if sky.any() else None


def _large_regions(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The connected regions of a mask that cover at least SMALLEST_SKY of it."""
    if mask.mean() < SMALLEST_SKY:
        return np.zeros_like(mask)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    large = statistics[:, cv2.CC_STAT_AREA] >= SMALLEST_SKY * mask.size
    large[0] = False  # the rest of the image
    return large[labels]


def detect_sky(disparity: Float[np.ndarray, "h w"], image: RGB) -> Bool[np.ndarray, "k l"] | None:
    """Guess the sky: smooth parts of the image at the upper border and the map's far end.

    The result has the image's aspect, and at most DETECTION_SIZE pixels a side. None if there is
    no sky. A wall that is farther than everything else looks the same.
    """
    height, width = image.shape[:2]
    share = min(1.0, DETECTION_SIZE / max(height, width))
    size = (max(2, round(share * height)), max(2, round(share * width)))
    small = resize_map(np.asarray(disparity, np.float32), size)
    low = small.min()
    high = np.percentile(small, 99)
    far = small < low + FAR_END * (high - low)
    grey = resize_map(image, size).mean(-1, dtype=np.float32)
    contrast = cv2.blur(np.hypot(*np.gradient(grey)), (SMOOTH_OVER, SMOOTH_OVER))
    sky = _large_regions(far & (contrast < MAX_CONTRAST))
    _, labels = cv2.connectedComponents(sky.astype(np.uint8))
    sky &= np.isin(labels, labels[0])  # regions that reach the first row
    # What is in front of the sky makes the image rough some pixels into it.
    reach = np.ones((SMOOTH_OVER, SMOOTH_OVER), np.uint8)
    sky = far & (cv2.dilate(sky.astype(np.uint8), reach) > 0)
    return sky if sky.any() else None


def fit_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A mask resized to height and width, with smooth borders."""
    if mask.shape == tuple(size):
        return mask
    return resize_map(mask.astype(np.uint8) * 255, size) >= 128
