"""D3R: whether depth keeps its order between neighbouring parts of a picture."""

import numpy as np
from jaxtyping import Float, Int

from urgt_jax.evaluation.metrics.protocol import Truth
from urgt_jax.evaluation.metrics.superpixels import adjacent, centres, superpixels

COUNT = 5000  # superpixels of a picture
SMALLEST = 16  # pixels a superpixel has at least to begin with
PIXELS = 400_000  # of the map that is divided into superpixels, at most
TRUE_RATIO, SAME_RATIO = 1.1, 1.01  # depths that differ in truth; that a prediction tells apart


def d3r(depth: Float[np.ndarray, "H W"], truth: Truth) -> float:
    """Depth discontinuity disagreement ratio (Boosting Monocular Depth, CVPR 2021).

    Between centres of adjacent superpixels of the true disparity whose true depths differ by more
    than 1.1, the mean |order in truth - order in the prediction|, where order is -1, 0 (within
    1.01) or 1; NaN without such pairs. As in the released code there are 5000 superpixels of
    disparity stretched to [0, 1], 0 where unknown, neighbours share a side of a pixel, and pairs
    with an unknown centre drop out. Ours: superpixels are not MATLAB's but those of
    `superpixels`; they are found on every n-th pixel of large pictures; depth is in metres.
    """
    points, pairs = ordinal_pairs(truth)
    at = tuple(points.T)
    pairs = pairs[truth.known[at][pairs].all(1)]
    true, found = (_order(x[at][pairs]) for x in (truth.depth, depth))
    counts = np.abs(true) > np.log(TRUE_RATIO)
    if not counts.any():
        return float("nan")
    order = np.where(np.abs(found) > np.log(SAME_RATIO), np.sign(found), 0)
    return float(np.abs(np.sign(true) - order)[counts].mean())


def _order(values: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M"]:
    """The logarithm of the ratio of each pair."""
    logs = np.log(values.astype(np.float64))
    return logs[:, 0] - logs[:, 1]


def ordinal_pairs(truth: Truth) -> tuple[Int[np.ndarray, "N 2"], Int[np.ndarray, "M 2"]]:
    """Row and column of superpixels' centres, and which of them are neighbours."""
    step = int(np.ceil(np.sqrt(truth.depth.size / PIXELS)))
    part = (slice(step // 2, None, step),) * 2
    depth, valid = truth.depth[part], truth.known[part]
    if not valid.any():
        return np.zeros((0, 2), int), np.zeros((0, 2), int)
    disparity = 1 / np.where(valid, depth, 1).astype(np.float64)
    low, high = disparity[valid].min(), disparity[valid].max()
    stretched = np.where(valid, (disparity - low) / max(high - low, 1e-12), 0)
    labels = superpixels(stretched, min(COUNT, max(depth.size // SMALLEST, 1)))
    return centres(labels) * step + step // 2, adjacent(labels)
