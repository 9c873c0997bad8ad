"""Metrics of boundaries beyond Depth Pro's F1: MoGe's F1, recall on mattes, distances of edges."""

import numpy as np
from jaxtyping import Bool, Float, Int

from urgt_jax.errors import import_extra
from urgt_jax.evaluation.metrics.depth import THRESHOLDS
from urgt_jax.evaluation.metrics.protocol import GroundTruth, check_size

RADII = (1, 2, 3)  # pixels, of MoGe's F1
STRIP_PIXELS = 1 << 20  # pixels that are compared at a time
LEVELS = len(THRESHOLDS) + 1  # numbers of thresholds that a ratio may exceed
CANNY_SIGMA = 2**0.5  # of iBims-1's edge detector, as are the next three
CANNY_LOW = 0.1
CANNY_HIGH = 0.2
FARTHEST_EDGE = 10.0  # pixels; predicted edges at this distance of all true ones do not count
SMALLEST_DISPARITY = 1e-6  # of a prediction that is compared with a matte, as in Depth Pro


def boundary_scores(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> dict[str, float]:
    """MoGe's F1 at three radii, and the distances of edges in pixels; NaN if undefined.

    `boundary_f1_radius1` to 3 compare each pixel with all others within the radius. The distances
    are iBims-1's: `edge_accuracy` is the mean distance of predicted edges from true ones,
    `edge_completeness` that of true edges from predicted ones. The true edges are those that the
    data set has marked, or else those that the same detector finds in the true depth.
    """
    check_size(depth, truth)
    scores = {}
    for radius in RADII:
        scores[f"boundary_f1_radius{radius}"] = f1_within(depth, truth, radius)
    return scores | edge_distances(depth, truth)


def f1_within(depth: Float[np.ndarray, "H W"], truth: GroundTruth, radius: int) -> float:
    """MoGe's F1 of occlusion boundaries between pixels at most `radius` apart.

    A neighbour is behind a boundary if its depth is above a threshold times the pixel's. Pixels
    nearer than the radius to the image's border are only neighbours. The F1 is a mean over Depth
    Pro's ten thresholds, weighted by the threshold minus 1. NaN without true boundaries.
    """
    counts = np.zeros((LEVELS, LEVELS), np.int64)
    height, width = depth.shape
    known = truth.known
    strip = max(STRIP_PIXELS // max(width, 1), 1)
    for top in range(radius, height - radius, strip):
        bottom = min(top + strip, height - radius)
        for dy, dx in disc(radius):
            here = (slice(top, bottom), slice(radius, width - radius))
            there = (slice(top + dy, bottom + dy), slice(radius + dx, width - radius + dx))
            pair = known[here] & known[there]
            true_level = exceeded(truth.depth[here], truth.depth[there], pair)
            level = exceeded(depth[here], depth[there], pair)
            codes = true_level[pair].astype(np.int64) * LEVELS + level[pair]
            counts += np.bincount(codes, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    if not counts[1:].any():
        return float("nan")
    scores = []
    for k in range(1, LEVELS):
        both = counts[k:, k:].sum()
        either = counts[k:].sum() + counts[:, k:].sum()
        scores.append(2 * both / either if either else 0.0)
    return float(np.average(scores, weights=THRESHOLDS - 1))


def disc(radius: int) -> list[tuple[int, int]]:
    """The offsets of all neighbours within a radius."""
    offsets = []
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if 0 < dy * dy + dx * dx <= radius * radius:
                offsets.append((dy, dx))
    return offsets


def exceeded(
    here: Float[np.ndarray, "h w"], there: Float[np.ndarray, "h w"], pair: Bool[np.ndarray, "h w"]
) -> Int[np.ndarray, "h w"]:
    """The number of thresholds that the ratio of a neighbour's depth to a pixel's exceeds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(pair, there / here, 0).astype(np.float32)
    level = np.zeros(ratio.shape, np.int8)
    for threshold in THRESHOLDS:
        level += ratio > np.float32(threshold)
    return level


def edge_distances(depth: Float[np.ndarray, "H W"], truth: GroundTruth) -> dict[str, float]:
    """iBims-1's depth boundary errors in pixels; NaN without true edges.

    Predicted edges are Canny edges of depth stretched to [0, 1]. If none is near a true edge, both
    distances are 10 pixels.
    """
    undefined = {"edge_accuracy": float("nan"), "edge_completeness": float("nan")}
    true = None if truth.annotations is None else truth.annotations.edges
    if true is None:
        if not truth.known.any():
            return undefined
        farthest = truth.depth[truth.known].max()
        true = canny(np.minimum(truth.depth, farthest), truth.measured)
    if not true.any():
        return undefined
    distance_transform = import_extra("scipy.ndimage", "eval").distance_transform_edt
    predicted = canny(depth, np.ones(depth.shape, bool))
    from_true = distance_transform(~true)
    near = predicted & (from_true < FARTHEST_EDGE)
    if not near.any():
        return dict.fromkeys(undefined, FARTHEST_EDGE)
    from_predicted = distance_transform(~predicted)
    return {
        "edge_accuracy": float(from_true[near].mean()),
        "edge_completeness": float(from_predicted[true].mean()),
    }


def canny(
    depth: Float[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"]
) -> Bool[np.ndarray, "H W"]:
    """The edges of depth, stretched to [0, 1] over the known pixels."""
    feature = import_extra("skimage.feature", "eval")
    low = float(depth[known].min())
    high = float(depth[known].max())
    stretched = np.where(known, (depth - low) / max(high - low, 1e-12), 0).astype(np.float32)
    return feature.canny(stretched, CANNY_SIGMA, CANNY_LOW, CANNY_HIGH, mask=known)


def boundary_recall(disparity: Float[np.ndarray, "H W"], matte: Bool[np.ndarray, "H W"]) -> float:
    """Depth Pro's recall of the boundary of a matte, from predicted disparity of any scale.

    The disparity must fall outwards across the boundary, at the steepest of neighbouring steps.
    A mean over four directions and ten thresholds, weighted by threshold.
    """
    disparity = np.maximum(disparity, SMALLEST_DISPARITY)
    recalls = np.zeros(len(THRESHOLDS))
    for turned, turned_matte in ((disparity, matte), (disparity.T, matte.T)):
        for mirrored in (False, True):
            values = turned[:, ::-1] if mirrored else turned
            inside = turned_matte[:, ::-1] if mirrored else turned_matte
            true = inside[:, 1:] & ~inside[:, :-1]
            ratio = values[:, 1:] / values[:, :-1]
            total = max(int(true.sum()), 1)
            for k, threshold in enumerate(THRESHOLDS):
                recalled = steepest(ratio, float(threshold)) & true
                recalls[k] += recalled.sum() / total / 4
    return float(np.average(recalls, weights=THRESHOLDS))


def steepest(ratio: Float[np.ndarray, "h w"], threshold: float) -> Bool[np.ndarray, "h w"]:
    """The first largest ratio of each run, along a row, of ratios above the threshold."""
    above = np.zeros((ratio.shape[0], ratio.shape[1] + 1), bool)
    above[:, :-1] = ratio > threshold  # the last column separates the rows
    flat = above.ravel()
    is_start = flat & ~np.concatenate([[False], flat[:-1]])
    starts = np.flatnonzero(is_start)
    result = np.zeros(flat.shape, bool)
    if starts.size:
        values = np.zeros(above.shape, ratio.dtype)
        values[:, :-1] = ratio
        values = np.where(flat, values.ravel(), -np.inf)
        largest = np.maximum.reduceat(values, starts)
        run = np.cumsum(is_start) - 1
        is_largest = flat & (values == largest[np.maximum(run, 0)])
        places = np.flatnonzero(is_largest)
        _, first = np.unique(run[places], return_index=True)
        result[places[first]] = True
    return result.reshape(above.shape)[:, :-1]
