"""Resizing and blurring of images and maps on the host: OpenCV, and what OpenCV does not offer.

Pixel centres are at one half, as in OpenCV, unless a function aligns the corners.
"""

import cv2
import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from PIL import Image

from urgt_jax.errors import require

BLUR_REACH = 3.0  # standard deviations, beyond which a Gaussian kernel is cut off


def resize_linear(
    image: Real[np.ndarray, "H W *C"], height: int, width: int
) -> Real[np.ndarray, "h w *C"]:
    """Resize uint8, float32 or float64 bilinearly, without antialiasing; the dtype is kept."""
    return _resize(image, height, width, cv2.INTER_LINEAR)


def resize_cubic(
    image: Real[np.ndarray, "H W *C"], height: int, width: int
) -> Real[np.ndarray, "h w *C"]:
    """Resize uint8, float32 or float64 bicubically, without antialiasing; the dtype is kept."""
    return _resize(image, height, width, cv2.INTER_CUBIC)


def _resize(image: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    _require_pixels(image, height, width)
    resized = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
    return resized.reshape(height, width, *image.shape[2:])  # OpenCV drops a single channel


def _require_pixels(image: np.ndarray, height: int, width: int) -> None:
    require(
        min(image.shape[:2]) > 0 and min(height, width) > 0,
        f"an image of {image.shape[0]} x {image.shape[1]} pixels cannot be resized "
        f"to {height} x {width}: both need at least one pixel a side",
    )


def gaussian_blur(image: Float[np.ndarray, "H W *C"], sigma: float) -> Float[np.ndarray, "H W *C"]:
    """Blur with a Gaussian of standard deviation `sigma` pixels; border pixels are repeated."""
    side = 2 * max(1, round(BLUR_REACH * sigma)) + 1
    blurred = cv2.GaussianBlur(
        np.ascontiguousarray(image), (side, side), sigma, borderType=cv2.BORDER_REPLICATE
    )
    return blurred.reshape(image.shape)


def resize_map(
    x: Shaped[np.ndarray, "H W *C"], size: tuple[int, int], interpolate: bool = True
) -> Shaped[np.ndarray, "h w *C"]:
    """Resize to `size` (height, width): bilinear, antialiased when smaller; or nearest pixels.

    This is Pillow's filter, channel by channel. OpenCV has no antialiased bilinear filter, and
    training batches must keep their bits.
    """
    if x.shape[:2] == tuple(size):
        return x
    height, width = size
    if not interpolate:
        rows = ((np.arange(height) + 0.5) * x.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * x.shape[1] / width).astype(int)
        return x[rows[:, None], columns]
    if x.dtype == np.uint8:
        return _resize_pillow(x, size)
    channels = x.reshape(*x.shape[:2], -1)
    resized = [_resize_pillow(channels[..., i], size) for i in range(channels.shape[-1])]
    return np.stack(resized, -1).reshape(height, width, *x.shape[2:])


def _resize_pillow(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(x))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def resize_corners(
    image: Float[np.ndarray, "H W *C"], height: int, width: int
) -> Float[np.ndarray, "h w *C"]:
    """Resize bilinearly with corner pixels on corner pixels (torch's align_corners=True)."""
    return resize_window(image, height, width, (slice(None), slice(None)), align_corners=True)


def resize_window(
    image: Float[np.ndarray, "H W *C"],
    height: int,
    width: int,
    window: tuple[slice, slice],
    align_corners: bool,
) -> Float[np.ndarray, "h w *C"]:
    """Return a window (rows, columns) of the image resized bilinearly to height x width.

    The result has the bits of the same window of the whole resized image, at the window's cost:
    only the rows it depends on are read. OpenCV promises no such equality.
    """
    _require_pixels(image, height, width)
    if (height, width) == image.shape[:2]:
        return np.array(image[window])
    rows, columns = window
    row_positions = _source_positions(image.shape[0], height, align_corners)[rows]
    column_positions = _source_positions(image.shape[1], width, align_corners)[columns]
    row_indices, row_weights = _bilinear_taps(row_positions)
    column_indices, column_weights = _bilinear_taps(column_positions)
    first = int(np.clip(row_indices.min(), 0, image.shape[0] - 1))
    last = int(np.clip(row_indices.max(), 0, image.shape[0] - 1))
    wide = _weighted_sum(image[first : last + 1], column_indices, column_weights, axis=1)
    return _weighted_sum(wide, row_indices - first, row_weights, axis=0)


def crop_average(
    image: Float[np.ndarray, "H W *C"],
    box: tuple[float, float, float, float],
    height: int,
    width: int,
) -> Float[np.ndarray, "h w *C"]:
    """Crop the box (top, left, bottom, right) and resize it: torchvision's roi_align(aligned=True).

    Each new pixel is the mean of evenly spaced bilinear samples, as many a side as it has old
    pixels, rounded up. Samples more than one pixel outside the image are 0.
    """
    top, left, bottom, right = box
    row_indices, row_weights = _average_taps(top, bottom, height, image.shape[0])
    column_indices, column_weights = _average_taps(left, right, width, image.shape[1])
    wide = _weighted_sum(image, column_indices, column_weights, axis=1)
    return _weighted_sum(wide, row_indices, row_weights, axis=0)


Indices = Int[np.ndarray, "new taps"]  # old pixels each new pixel is a sum of; may be outside
Weights = Float[np.ndarray, "new taps"]


def _source_positions(old: int, new: int, align_corners: bool) -> Float[np.ndarray, "new"]:
    """Positions of new pixels along one axis, in old pixels."""
    if align_corners:
        return np.arange(new) * ((old - 1) / max(new - 1, 1))
    # 1 / (new / old) as OpenCV has it: old / new is rounded differently.
    return (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5


def _bilinear_taps(positions: Float[np.ndarray, "new"]) -> tuple[Indices, Weights]:
    """The two old pixels around each position, and their weights."""
    low = np.floor(positions)
    fraction = (positions - low).astype(np.float32)
    indices = low.astype(np.int64)[:, None] + np.arange(2)
    return indices, np.stack([1 - fraction, fraction], 1)


def _average_taps(start: float, stop: float, new: int, old: int) -> tuple[Indices, Weights]:
    """The taps of the mean over samples in each of `new` equal parts from `start` to `stop`."""
    step = (stop - start) / new
    count = max(int(np.ceil(step)), 1)
    offsets = (np.arange(new)[:, None] + (np.arange(count) + 0.5) / count) * step
    positions = (start - 0.5 + offsets).reshape(-1)
    inside = (positions >= -1) & (positions <= old)
    indices, weights = _bilinear_taps(np.clip(positions, 0, old - 1))
    weights = weights * (inside / count).astype(np.float32)[:, None]
    return indices.reshape(new, -1), weights.reshape(new, -1)


def _weighted_sum(
    image: np.ndarray, indices: Indices, weights: Weights, axis: int
) -> Float[np.ndarray, "h w *C"]:
    """Sum the old pixels times their weights along an axis; the border pixel stands for outside."""
    inside = np.clip(indices, 0, image.shape[axis] - 1)
    weight_shape = [1] * image.ndim
    weight_shape[axis] = -1
    total = 0
    for tap in range(indices.shape[1]):
        pixels = np.take(image, inside[:, tap], axis)
        total = total + pixels * weights[:, tap].reshape(weight_shape)
    return total
