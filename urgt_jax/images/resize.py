"""Resizing of images and maps, pixel centres at one half."""

from functools import partial

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from urgt_jax.errors import UserError


def resize_map(x: np.ndarray, size: tuple[int, int], lerp: bool = True) -> np.ndarray:
    """The map at another size; bilinear (antialiased when smaller), or nearest for truth.

    Pixel centres lie at one half.
    """
    if x.shape[:2] == tuple(size):
        return x
    if not lerp:
        rows, cols = (
            ((np.arange(want) + 0.5) * have / want).astype(int)
            for want, have in zip(size, x.shape[:2], strict=True)
        )
        return x[rows[:, None], cols]
    if x.dtype == np.uint8:
        return np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BILINEAR))
    planes = x.reshape(*x.shape[:2], -1)
    parts = [_resized_plane(planes[..., i], size) for i in range(planes.shape[-1])]
    return np.stack(parts, -1).reshape(*size, *x.shape[2:])


def _resized_plane(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(x))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


BITS = 11  # of the fixed-point shares by which OpenCV mixes bytes
CUBIC = np.float32(-0.75)  # slope of OpenCV's cubic kernel at a distance of one pixel
Picture = Float[np.ndarray, "H W *C"]


def resize_linear(picture: Picture, height: int, width: int) -> Float[np.ndarray, "h w *C"]:
    """Bilinear resampling of float32 or float64, which is kept (INTER_LINEAR)."""
    return _resize(picture, height, width, _linear, rounded=False)


def resize_cubic(picture: Picture, height: int, width: int) -> Float[np.ndarray, "h w *C"]:
    """Bicubic resampling of float32 or float64, which is kept (INTER_CUBIC)."""
    return _resize(picture, height, width, _cubic, rounded=picture.dtype == np.float64)


def resize_corners(picture: Picture, height: int, width: int) -> Float[np.ndarray, "h w *C"]:
    """Bilinear resampling with the corners' centres on each other (torch's align_corners=True)."""
    _check(picture, height, width)
    h, w = picture.shape[:2]
    if (height, width) == (h, w):
        return picture.copy()
    wide = _mix(picture, *_linear(_corners(w, width)), 1)
    return _mix(wide, *_linear(_corners(h, height)), 0)


def _corners(have: int, want: int) -> np.ndarray:
    return np.arange(want) * ((have - 1) / max(want - 1, 1))


def resize_window(
    picture: Picture, height: int, width: int, window: tuple[slice, slice], corners: bool
) -> Float[np.ndarray, "h w *C"]:
    """The window (rows, columns) of what `resize_corners`, or else `resize_linear`, gives whole.

    Equal to the last bit, at the cost of the window's own pixels.
    """
    _check(picture, height, width)
    (h, w), (rows, columns) = picture.shape[:2], window
    if (height, width) == (h, w):
        return np.array(picture[window])
    places = _corners if corners else partial(_places, rounded=False)
    lines, heights = _linear(places(h, height)[rows])
    first, last = (int(np.clip(end, 0, h - 1)) for end in (lines.min(), lines.max()))
    wide = _mix(picture[first : last + 1], *_linear(places(w, width)[columns]), 1)
    return _mix(wide, lines - first, heights, 0)


def crop_average(
    picture: Picture, box: tuple[float, float, float, float], height: int, width: int
) -> Float[np.ndarray, "h w *C"]:
    """The box (top, left, bottom, right) of a picture as torchvision's roi_align(aligned=True).

    Each new pixel is the mean of as many evenly spread bilinear samples as it has old pixels,
    rounded up; samples more than a pixel outside are 0.
    """
    top, left, bottom, right = box
    wide = _mix(picture, *_samples(left, right, width, picture.shape[1]), 1)
    return _mix(wide, *_samples(top, bottom, height, picture.shape[0]), 0)


def _samples(start: float, stop: float, want: int, have: int):
    """[want, 2 n] old pixels and shares of n samples in each of `want` equal parts."""
    count = max(int(np.ceil((stop - start) / want)), 1)
    step = (stop - start) / want
    parts = (np.arange(want)[:, None] + (np.arange(count) + 0.5) / count) * step
    places = (start - 0.5 + parts).reshape(-1)
    inside = (places >= -1) & (places <= have)
    index, shares = _linear(np.clip(places, 0, have - 1))
    shares = shares * (inside / count).astype(np.float32)[:, None]
    return index.reshape(want, -1), shares.reshape(want, -1)


def resize_linear_u8(
    picture: UInt8[np.ndarray, "H W *C"], height: int, width: int
) -> UInt8[np.ndarray, "h w *C"]:
    """Bilinear resampling of bytes, equal to OpenCV's to the last bit (INTER_LINEAR)."""
    _check(picture, height, width)
    h, w = picture.shape[:2]
    if (height, width) == (h, w):
        return picture.copy()
    if (h, w) == (2 * height, 2 * width):  # OpenCV takes the mean here, rounded once
        blocks = picture.reshape(height, 2, width, 2, *picture.shape[2:])
        return ((blocks.sum((1, 3), dtype=np.int32) + 2) >> 2).astype(np.uint8)
    columns, shares = _linear(_places(w, width, True))
    outside = (columns < 0) | (columns > w - 1)  # at the side borders one pixel counts alone,
    shares = np.where(outside.any(1)[:, None], np.float32([1, 0]), shares)
    rows, heights = _linear(_places(h, height, True))  # at top and bottom the same row counts twice
    wide = _mix(picture.astype(np.int32), columns, _fixed(shares), 1) >> 4
    low, high = (_take(wide, rows[:, i], 0) for i in (0, 1))
    first, second = (_along(_fixed(heights)[:, i], 0, wide.ndim) for i in (0, 1))
    return (((low * first >> 16) + (high * second >> 16) + 2) >> 2).astype(np.uint8)


def _resize(picture, height: int, width: int, taps, rounded: bool):
    _check(picture, height, width)
    h, w = picture.shape[:2]
    if (height, width) == (h, w):
        return picture.copy()
    wide = _mix(picture, *taps(_places(w, width, rounded)), 1)
    return _mix(wide, *taps(_places(h, height, rounded)), 0)


def _check(picture, height: int, width: int) -> None:
    if min(picture.shape[:2]) < 1 or min(height, width) < 1:
        raise UserError(f"a picture of {picture.shape[:2]} cannot become {(height, width)} pixels")


def _places(have: int, want: int, rounded: bool) -> np.ndarray:
    """Where new pixels lie among the old ones."""
    places = (np.arange(want) + 0.5) * (1 / (want / have)) - 0.5
    return places.astype(np.float32) if rounded else places


def _linear(places):
    """[n, 2] old pixels, also beyond the border, and their shares."""
    low = np.floor(places)
    share = (places - low).astype(np.float32)
    return low.astype(np.int64)[:, None] + np.arange(2), np.stack([1 - share, share], 1)


def _cubic(places):
    """[n, 4] old pixels, also beyond the border, and their shares."""
    low = np.floor(places)
    x, a, one = (places - low).astype(np.float32), CUBIC, np.float32(1)
    far = ((a * (x + one) - 5 * a) * (x + one) + 8 * a) * (x + one) - 4 * a
    near, next_ = (((a + 2) * d - (a + 3)) * d * d + one for d in (x, one - x))
    shares = np.stack([far, near, next_, one - far - near - next_], 1)
    return low.astype(np.int64)[:, None] + np.arange(-1, 3), shares


def _fixed(shares):
    return np.rint(shares * np.float32(1 << BITS)).astype(np.int32)


def _take(picture, index, axis: int):
    return np.take(picture, np.clip(index, 0, picture.shape[axis] - 1), axis)


def _along(share, axis: int, rank: int):
    return share.reshape([-1 if i == axis else 1 for i in range(rank)])


def _mix(picture, index, shares, axis: int):
    """The sum of `index.shape[1]` pixels times their shares along an axis."""
    total = 0
    for i in range(index.shape[1]):
        share = _along(shares[:, i], axis, picture.ndim)
        total = total + _take(picture, index[:, i], axis) * share
    return total
