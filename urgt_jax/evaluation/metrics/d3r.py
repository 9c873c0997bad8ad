"""D3R and ORD: whether depth keeps its order between parts of an image."""

import numpy as np
from jaxtyping import Float, Int

from urgt_jax.evaluation.metrics.protocol import GroundTruth
from urgt_jax.evaluation.metrics.superpixels import adjacent, centres, superpixels

SUPERPIXELS = 5000  # in an image
MIN_SUPERPIXEL = 16  # smallest initial size of a superpixel, pixels
MAX_PIXELS = 400_000  # largest map that is divided into superpixels
TRUE_RATIO = 1.1  # true depths that differ by more are in order
PREDICTED_RATIO = 1.01  # predicted depths that differ by more are in order
RANDOM_RATIO = 1.03  # the same for random pairs
RANDOM_PARTNERS = 3  # of a superpixel, in random pairs


def order_scores(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> dict[str, float]:
    """D3R of depth in metres and of stretched depth, and ORD of stretched depth; NaN without pairs.

    `d3r` is the depth discontinuity disagreement ratio (Boosting Monocular Depth, CVPR 2021) as PRO
    computes it: the mean |true order - predicted order| over pairs of centres of adjacent
    superpixels whose true depths differ by a factor of more than 1.1. An order is -1, 0 (within a
    factor of 1.01) or 1.

    `d3r_stretched` is that of BoostingMonocularDepth's code, which first stretches the disparity of
    the prediction to the span of the true one, and both depths to [0, 1]: the nearest true point
    drops out, and ratios of near points grow. `ord` is the same between random superpixels of any
    distance, orders at a factor of 1.03.

    As in the released code, there are 5000 superpixels of the true disparity, stretched to [0, 1]
    and 0 where unknown; neighbours share a pixel side; pairs with an unknown centre drop out.
    Differences: the superpixels are scikit-image's instead of MATLAB's, and they are computed on
    every n-th pixel of large images.
    """
    points, neighbours = ordinal_pairs(truth)
    rows, columns = points.T
    known = truth.known[rows, columns]
    true = np.where(known, truth.depth[rows, columns], np.nan).astype(np.float64)
    predicted = depth[rows, columns].astype(np.float64)
    neighbours = neighbours[known[neighbours].all(1)]
    scores = {"d3r": disagreement(true, predicted, neighbours, TRUE_RATIO, PREDICTED_RATIO)}
    stretched_true, stretched = stretch(true, predicted, depth, truth)
    random = random_pairs(len(points))
    random = random[known[random].all(1)]
    for name, pairs, true_ratio, ratio in (
        ("d3r_stretched", neighbours, TRUE_RATIO, PREDICTED_RATIO),
        ("ord", random, 1.0, RANDOM_RATIO),
    ):
        pairs = pairs[(stretched_true[pairs] > 0).all(1)]
        scores[name] = disagreement(stretched_true, stretched, pairs, true_ratio, ratio)
    return scores


def disagreement(
    true: Float[np.ndarray, "N"],
    predicted: Float[np.ndarray, "N"],
    pairs: Int[np.ndarray, "M 2"],
    true_ratio: float,
    ratio: float,
) -> float:
    """The mean difference of orders over pairs whose true values differ by more than a factor."""
    true_log = log_ratio(true[pairs])
    counts = np.abs(true_log) > np.log(true_ratio)
    if not counts.any():
        return float("nan")
    true_order = order(true_log, ratio)
    predicted_order = order(log_ratio(predicted[pairs]), ratio)
    return float(np.abs(true_order - predicted_order)[counts].mean())


def order(log: Float[np.ndarray, "M"], ratio: float) -> Float[np.ndarray, "M"]:
    """-1, 0 or 1 for each logarithm of a ratio; 0 if the ratio is within the given one."""
    return np.where(np.abs(log) > np.log(ratio), np.sign(log), 0.0)


def log_ratio(values: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M"]:
    """The logarithm of the ratio of each pair."""
    logs = np.log(values + np.finfo(float).eps)
    return logs[:, 0] - logs[:, 1]


def stretch(
    true_points: Float[np.ndarray, "N"],
    predicted_points: Float[np.ndarray, "N"],
    prediction: Float[np.ndarray, "H W"],
    truth: GroundTruth,
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """True and predicted depth of some points, stretched to [0, 1] over the image.

    The prediction's extremes are those of the pixels with a true depth, sky included.
    """
    known = truth.known
    if not known.any():
        return true_points, predicted_points
    nearest = float(truth.depth[known].min())
    farthest = float(truth.depth[known].max())
    smallest_disparity = nearest / farthest  # of the truth, as a share of the largest
    compared = prediction[truth.measured]
    low = 1 / float(compared.max())
    high = 1 / float(compared.min())
    share = (1 / predicted_points - low) / max(high - low, 1e-12)
    disparity = smallest_disparity + (1 - smallest_disparity) * share
    span = max(1 / smallest_disparity - 1, 1e-12)
    stretched_true = (true_points - nearest) / max(farthest - nearest, 1e-12)
    return stretched_true, np.maximum(1 / disparity - 1, 0) / span


def random_pairs(count: int) -> Int[np.ndarray, "M 2"]:
    """Each of `count` points with three random others, the same ones in every evaluation."""
    others = np.random.default_rng(0).integers(0, max(count, 1), (count, RANDOM_PARTNERS))
    pairs = np.stack(np.broadcast_arrays(np.arange(count)[:, None], others), -1).reshape(-1, 2)
    return pairs[pairs[:, 0] != pairs[:, 1]]


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
