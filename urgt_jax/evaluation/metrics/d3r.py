"""D3R: whether depth keeps its order between neighbouring parts of an image."""

import numpy as np
from jaxtyping import Float, Int

from urgt_jax.evaluation.metrics.protocol import GroundTruth
from urgt_jax.evaluation.metrics.superpixels import adjacent, centres, superpixels

SUPERPIXELS = 5000  # in an image
MIN_SUPERPIXEL = 16  # smallest initial size of a superpixel, pixels
MAX_PIXELS = 400_000  # largest map that is divided into superpixels
TRUE_RATIO = 1.1  # true depths that differ by more are in order
PREDICTED_RATIO = 1.01  # predicted depths that differ by more are in order


def d3r(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> float:
    """Depth discontinuity disagreement ratio (Boosting Monocular Depth, CVPR 2021).

    The mean |true order - predicted order| over pairs of centres of adjacent superpixels whose true
    depths differ by a factor of more than 1.1. An order is -1, 0 (depths within a factor of 1.01)
    or 1. NaN without such pairs.

    As in the released code of BoostingMonocularDepth, there are 5000 superpixels of the true
    disparity, stretched to [0, 1] and 0 where unknown; neighbours share a pixel side; pairs with an
    unknown centre drop out. Differences: the superpixels are scikit-image's instead of MATLAB's,
    they are computed on every n-th pixel of large images, and depth is in metres.
    """
    points, pairs = ordinal_pairs(truth)
    rows, columns = points.T
    known = truth.known[rows, columns]
    pairs = pairs[known[pairs].all(1)]
    true = log_ratio(truth.depth[rows, columns][pairs])
    predicted = log_ratio(depth[rows, columns][pairs])
    counts = np.abs(true) > np.log(TRUE_RATIO)
    if not counts.any():
        return float("nan")
    order = np.where(np.abs(predicted) > np.log(PREDICTED_RATIO), np.sign(predicted), 0)
    return float(np.abs(np.sign(true) - order)[counts].mean())


def log_ratio(values: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M"]:
    """The logarithm of the ratio of each pair."""
    logs = np.log(values.astype(np.float64))
    return logs[:, 0] - logs[:, 1]


def ordinal_pairs(
    truth: GroundTruth,
) -> tuple[Int[np.ndarray, "N 2"], Int[np.ndarray, "M 2"]]:
    """Row and column of each superpixel's centre, and the pairs of adjacent superpixels."""
    step = int(np.ceil(np.sqrt(truth.depth.size / MAX_PIXELS)))
    every = slice(step // 2, None, step)
    depth = truth.depth[every, every]
    valid = truth.known[every, every]
    if not valid.any():
        return np.zeros((0, 2), int), np.zeros((0, 2), int)
    disparity = 1 / np.where(valid, depth, 1).astype(np.float64)
    low = disparity[valid].min()
    high = disparity[valid].max()
    stretched = np.where(valid, (disparity - low) / max(high - low, 1e-12), 0)
    count = min(SUPERPIXELS, max(depth.size // MIN_SUPERPIXEL, 1))
    labels = superpixels(stretched, count)
    return centres(labels) * step + step // 2, adjacent(labels)
