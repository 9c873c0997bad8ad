"""Blurs, warps and resizing of [H, W] float maps in numpy, for degradations."""

import numpy as np
from PIL import Image


def shrink(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area average of a [H, W] float map."""
    return resize_with(x, size, Image.Resampling.BOX)


def enlarge(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear enlargement of a [H, W] float map, pixel centres at one half."""
    return resize_with(x, size, Image.Resampling.BILINEAR)


def resize_with(x: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    """Any of Pillow's resampling filters for a [H, W] float map."""
    return np.asarray(Image.fromarray(x.astype(np.float32), "F").resize(size[::-1], resampling))


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Noise of unit deviation with features of 1 / `cells` of the map's size."""
    knots = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    return resize_with(knots, size, Image.Resampling.BICUBIC)


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a [H, W] map, borders repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], "edge")
        n = x.shape[axis]
        x = sum(t * np.take(pad, np.arange(i, i + n), axis) for i, t in enumerate(taps))
    return x


def warp(x: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The [H, W] map sampled bilinearly at positions displaced by the [2, H, W] flow, pixels."""
    h, w = x.shape
    row = np.clip(np.arange(h)[:, None] + flow[0], 0, h - 1)
    col = np.clip(np.arange(w)[None] + flow[1], 0, w - 1)
    top, left = np.minimum(row.astype(int), h - 2), np.minimum(col.astype(int), w - 2)
    down, right = row - top, col - left
    upper = x[top, left] * (1 - right) + x[top, left + 1] * right
    lower = x[top + 1, left] * (1 - right) + x[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
