"""How the unit of a predicted map is fitted to the ground truth before it is scored."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

STRIP_PIXELS = 1 << 20  # pixels that are summed in float64 at a time
SAMPLES = 64  # rows and columns of the pixels that L1 is fitted to, as in MoGe's evaluation
SMALLEST_WEIGHT = 1e-9  # share of the largest; a pixel with less does not change the L1 fit


class Alignment(NamedTuple):
    """depth or 1/depth = scale x prediction + shift."""

    scale: float
    shift: float
    of_depth: bool = False  # whether depth is fitted instead of 1/depth

    def depth(self, values: Float[np.ndarray, "*S"], max_depth: float) -> Float[np.ndarray, "*S"]:
        """Depth in metres, float32; from disparity, it is at most `max_depth`."""
        fitted = self.scale * values.astype(np.float64) + self.shift
        if not self.of_depth:
            fitted = 1 / np.maximum(fitted, 1 / max_depth)
        return fitted.astype(np.float32)


UNCHANGED = Alignment(1.0, 0.0, of_depth=True)
UNDEFINED = float("nan")


def align(
    disparity: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
) -> Alignment:
    """Fit disparity to 1/depth by least squares over valid pixels; NaN if there are none.

    1/depth of infinitely far pixels is 0.
    """
    scale, shift = fit_line(disparity, depth, valid, inverse=True)
    return Alignment(scale, shift)


def fit_line(
    x: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    inverse: bool,
) -> tuple[float, float]:
    """Scale and shift of x that come closest to depth, or to 1/depth; NaN without valid pixels."""
    count = 0
    sum_x = 0.0
    sum_y = 0.0
    for part_x, part_y in valid_strips(x, depth, valid, inverse):
        count += part_x.size
        sum_x += part_x.sum()
        sum_y += part_y.sum()
    if count == 0:
        return UNDEFINED, UNDEFINED
    mean_x = sum_x / count
    mean_y = sum_y / count
    # A second pass about the means, because float64 sums of squares would lose digits.
    spread = 0.0
    product = 0.0
    for part_x, part_y in valid_strips(x, depth, valid, inverse):
        spread += np.square(part_x - mean_x).sum()
        product += ((part_x - mean_x) * (part_y - mean_y)).sum()
    # A constant map does not determine the scale.
    is_constant = spread <= 1e-12 * count * mean_x * mean_x
    scale = 0.0 if is_constant else product / spread
    return float(scale), float(mean_y - scale * mean_x)


def fit_scale(
    x: Float[np.ndarray, "H W"], depth: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> float:
    """The scale of x that comes closest to depth by least squares; NaN without valid pixels."""
    square = 0.0
    product = 0.0
    for part_x, part_y in valid_strips(x, depth, valid, inverse=False):
        square += part_x @ part_x
        product += part_x @ part_y
    return float(product / square) if square else UNDEFINED


def median_ratio(
    x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> float:
    """The median of y over the median of x; NaN without valid pixels."""
    use = valid & np.isfinite(x) & np.isfinite(y)
    if not use.any():
        return UNDEFINED
    return float(np.float64(np.median(y[use])) / np.float64(np.median(x[use])))


def fit_l1(
    x: Float[np.ndarray, "H W"],
    y: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    with_shift: bool,
    largest: float = np.inf,
) -> tuple[float, float]:
    """Scale and shift of x with the smallest sum of relative errors |scale x + shift - y| / y.

    An error above `largest` counts as `largest`. As in MoGe's evaluation, the fit is exact on one
    pixel of each cell of 64 x 64. NaN without valid pixels.
    """
    rows, columns = sample_pixels(valid & np.isfinite(x) & np.isfinite(y))
    if rows.size == 0:
        return UNDEFINED, UNDEFINED
    x = x[rows, columns].astype(np.float64)
    y = y[rows, columns].astype(np.float64)
    weight = 1 / y
    if not with_shift:
        scale, _ = best_scale(x, y, weight, largest)
        return scale, 0.0
    # The best line goes through at least one of the points.
    best = (np.inf, 0.0, float(np.median(y)))
    for i in range(x.size):
        scale, error = best_scale(x - x[i], y - y[i], weight, largest)
        if error < best[0]:
            best = (error, scale, float(y[i] - scale * x[i]))
    return best[1], best[2]


def best_scale(
    x: Float[np.ndarray, "N"],
    y: Float[np.ndarray, "N"],
    weight: Float[np.ndarray, "N"],
    largest: float,
) -> tuple[float, float]:
    """The scale with the smallest sum of min(weight |scale x - y|, largest), and that sum."""
    slope = weight * np.abs(x)
    use = slope > SMALLEST_WEIGHT * slope.max()
    if not use.any():
        return 0.0, float(np.minimum(weight * np.abs(y), largest).sum())
    slope = slope[use]
    zero = y[use] / x[use]
    # The sum is a piecewise linear function of the scale. Follow it from break to break.
    if np.isfinite(largest):
        reach = largest / slope
        breaks = np.concatenate([zero - reach, zero, zero + reach])
        change = np.concatenate([-slope, 2 * slope, -slope])
        first = 0.0
    else:
        breaks = zero
        change = 2 * slope
        first = -slope.sum()
    order = np.argsort(breaks, kind="stable")
    breaks = breaks[order]
    slopes = first + np.cumsum(change[order])
    heights = np.concatenate([[0], np.cumsum(slopes[:-1] * np.diff(breaks))])
    scale = float(breaks[heights.argmin()])
    return scale, float(np.minimum(weight * np.abs(scale * x - y), largest).sum())


def sample_pixels(valid: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the valid pixel nearest to the centre of each of 64 x 64 cells."""
    height, width = valid.shape
    tops = np.linspace(0, height, min(SAMPLES, height) + 1).astype(int)
    lefts = np.linspace(0, width, min(SAMPLES, width) + 1).astype(int)
    rows = []
    columns = []
    for top, bottom in zip(tops[:-1], tops[1:], strict=True):
        for left, right in zip(lefts[:-1], lefts[1:], strict=True):
            y, x = np.nonzero(valid[top:bottom, left:right])
            if y.size == 0:
                continue
            centre_y = (bottom - top - 1) / 2
            centre_x = (right - left - 1) / 2
            nearest = ((y - centre_y) ** 2 + (x - centre_x) ** 2).argmin()
            rows.append(top + y[nearest])
            columns.append(left + x[nearest])
    return np.array(rows, int), np.array(columns, int)


def valid_strips(
    x: Float[np.ndarray, "H W"],
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    inverse: bool,
) -> Iterator[tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]]:
    """x, and depth or 1/depth, where both are known: in float64, a strip of rows at a time."""
    height, width = depth.shape
    strip_height = max(STRIP_PIXELS // max(width, 1), 1)
    for top in range(0, height, strip_height):
        rows = slice(top, top + strip_height)
        use = valid[rows] & np.isfinite(x[rows]) & (depth[rows] > 0)
        y = depth[rows][use].astype(np.float64)
        yield x[rows][use].astype(np.float64), 1 / y if inverse else y
