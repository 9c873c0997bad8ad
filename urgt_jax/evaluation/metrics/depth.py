"""Metrics of depth in metres: the errors of the PatchFusion family, and edge metrics."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.d3r import order_scores
from urgt_jax.evaluation.metrics.protocol import MIN_DEPTH, GroundTruth, check_size

THRESHOLDS = np.linspace(1.05, 1.25, 10)  # depth ratios that count as an edge, Depth Pro's
# The edge level of a step is the number of thresholds that it exceeds, with its sign. It is
# stored as an index that counts from level -10.
LEVELS = 2 * len(THRESHOLDS) + 1
NO_PAIR = LEVELS**2  # the code of a step with an invalid end
PIXEL_MEANS = ("abs_rel", "sq_rel", "mae", "rmse", "log10", "delta1", "delta2", "delta3")


def depth_scores(
    depth: Float[np.ndarray, "H W"],
    truth: GroundTruth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> dict[str, float]:
    """All scores of a depth map in metres, as `to_metres` returns it; NaN if no pixel is valid.

    PatchFusion's abs_rel, sq_rel, mae and rmse (metres), log10, rmse_log, silog (percent) and
    delta1 to delta3 (shares); Depth Pro's boundary_f1, over pairs of pixels with a true depth, sky
    included; SMD-Nets' soft edge error see (metres), only with stereo and 0 without edges; the
    `order_scores`.
    """
    check_size(depth, truth)
    sums: dict[str, float] = {}
    log_sums = []
    edge_counts = np.zeros((2, NO_PAIR + 1), np.int64)
    maps = (depth, truth.depth, truth.known)
    numbers = [truth.stereo or 0.0]
    for _, outputs in tiled.scan(depth_tile, maps, numbers, halo=1, tile=tile, devices=devices):
        edges = outputs.pop("edges")
        for axis in (0, 1):
            edge_counts[axis] += np.bincount(edges[axis].ravel(), minlength=NO_PAIR + 1)
        centre = float(outputs.pop("log_centre"))
        tile_sums = {name: float(x.sum(dtype=np.float64)) for name, x in outputs.items()}
        log = tile_sums.pop("log")
        log_square = tile_sums.pop("log_square")
        log_sums.append((tile_sums["count"], centre, log, log_square))
        for name, value in tile_sums.items():
            sums[name] = sums.get(name, 0.0) + value
    count = sums["count"]
    nan = float("nan")
    scores = {name: sums[name] / count if count else nan for name in PIXEL_MEANS}
    scores["rmse"] = float(np.sqrt(scores["rmse"]))
    scores |= log_scores(np.array(log_sums))
    scores["boundary_f1"] = boundary_f1(edge_counts[:, :NO_PAIR]) if count else nan
    if truth.stereo is not None:
        scores["see"] = 0.0 if count else nan
        if sums["edge_count"]:
            scores["see"] = sums["edge_error"] / sums["edge_count"]
    return scores | order_scores(depth, truth)


def log_scores(log_sums: Float[np.ndarray, "T 4"]) -> dict[str, float]:
    """RMSElog and SILog from each tile's count, centre, and sums about the centre."""
    count, centre, first, second = log_sums[log_sums[:, 0] > 0].T
    if count.size == 0:
        return {"rmse_log": float("nan"), "silog": float("nan")}
    tile_means = centre + first / count
    mean = np.average(tile_means, weights=count)
    # Add the variances within tiles and that of their means: this subtracts no large numbers.
    within = second - first**2 / count
    between = count * (tile_means - mean) ** 2
    variance = max((within + between).sum() / count.sum(), 0.0)
    rmse = float(np.sqrt(mean**2 + variance))
    return {"rmse_log": rmse, "silog": float(100 * variance**0.5)}


def depth_tile(
    pred: Float[Array, "h w"],
    depth: Float[Array, "h w"],
    valid: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "1"],
) -> dict[str, Array]:
    """Sums over each column of a tile, which float32 can hold, and the edges at its pixels."""
    measured = depth > MIN_DEPTH  # sky is infinitely far, holes are 0
    p = jnp.maximum(jnp.where(measured, pred, 1.0), MIN_DEPTH)
    g = jnp.where(measured, depth, 1.0)
    inner = (slice(1, -1), slice(1, -1))
    true_depth = jnp.where(valid, depth, 1.0)
    outputs = pixel_errors(p[inner], true_depth[inner], valid[inner])
    edge, error = soft_edges(pred, depth, numbers[0])
    edge &= valid[inner]
    outputs["edge_count"] = edge.sum(0)
    outputs["edge_error"] = jnp.where(edge, error, 0).sum(0)
    outputs["edges"] = jnp.stack([edge_codes(p, g, measured, axis) for axis in (0, 1)])
    return outputs


def pixel_errors(
    p: Float[Array, "h w"], g: Float[Array, "h w"], valid: Bool[Array, "h w"]
) -> dict[str, Array]:
    """Sums over each column of the errors of predicted depth p against true depth g."""

    def column_sums(x: Float[Array, "h w"]) -> Float[Array, "w"]:
        return jnp.where(valid, x, 0).sum(0)

    difference = p - g
    ratio = jnp.maximum(g / p, p / g)
    # Each is accurate where the other is not: log1p where both are nearly equal, log far below.
    log = jnp.where(p < g / 2, jnp.log(p / g), jnp.log1p(difference / g))
    count = valid.sum(0)
    centre = column_sums(log).sum() / jnp.maximum(count.sum(), 1)
    return {
        "count": count,
        "abs_rel": column_sums(jnp.abs(difference) / g),
        "sq_rel": column_sums(difference**2 / g),
        "mae": column_sums(jnp.abs(difference)),
        "rmse": column_sums(difference**2),
        "log10": column_sums(jnp.abs(log) / np.log(10)),
        "delta1": (valid & (ratio < 1.25)).sum(0),
        "delta2": (valid & (ratio < 1.25**2)).sum(0),
        "delta3": (valid & (ratio < 1.25**3)).sum(0),
        "log_centre": centre,
        "log": column_sums(log - centre),
        "log_square": column_sums((log - centre) ** 2),
    }


def soft_edges(
    pred: Float[Array, "H W"], depth: Float[Array, "H W"], stereo: Float[Array, ""]
) -> tuple[Bool[Array, "h w"], Float[Array, "h w"]]:
    """Whether a pixel is at an edge, and its error against the nearest depth of 3 x 3 pixels.

    Edges are steps of more than one pixel of true disparity, marked on both sides. As in the
    released code, known depths that are not valid take part. Unlike in it, unknown pixels and
    those outside the image do not: the released code compares with a depth of 0 there.
    """
    height = depth.shape[0] - 2
    width = depth.shape[1] - 2

    def shifted(x: Float[Array, "H W"], dy: int, dx: int) -> Float[Array, "h w"]:
        return x[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    known = depth > 0
    disparity = jnp.where(known, stereo / jnp.where(known, depth, 1.0), jnp.nan)
    here = shifted(disparity, 0, 0)
    edge = jnp.zeros((height, width), bool)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        step = jnp.abs(shifted(disparity, dy, dx) - here)
        edge |= step > 1  # False for the NaN of an unknown pixel
    candidates = jnp.where(known, depth, jnp.inf)
    error = jnp.full((height, width), jnp.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            difference = jnp.abs(shifted(candidates, dy, dx) - shifted(pred, 0, 0))
            error = jnp.minimum(error, difference)
    return edge, error


def edge_codes(
    p: Float[Array, "H W"], g: Float[Array, "H W"], measured: Bool[Array, "H W"], axis: int
) -> UInt[Array, "h w"]:
    """The true and the predicted edge level from each pixel to the next one, as one number."""
    here = (slice(1, -1), slice(1, -1))
    after = (slice(2, None), slice(1, -1)) if axis == 0 else (slice(1, -1), slice(2, None))
    true_level = edge_level(g[here], g[after]) + len(THRESHOLDS)
    pred_level = edge_level(p[here], p[after]) + len(THRESHOLDS)
    pair = measured[here] & measured[after]
    return jnp.where(pair, true_level * LEVELS + pred_level, NO_PAIR).astype(jnp.uint16)


def edge_level(a: Float[Array, "h w"], b: Float[Array, "h w"]) -> Int[Array, "h w"]:
    """The number of thresholds that the depth ratio exceeds, positive where a is farther."""
    ratio = jnp.maximum(a, b) / jnp.minimum(a, b)  # NaN, which exceeds nothing, if both are sky
    count = jnp.zeros(ratio.shape, jnp.int32)
    for threshold in THRESHOLDS:
        count += (ratio > threshold).astype(jnp.int32)
    return jnp.where(a > b, count, -count)


def boundary_f1(edge_counts: Int[np.ndarray, "2 L"]) -> float:
    """Depth Pro's F1 of occlusion edges, from counts of (true, predicted) levels along both axes.

    Precision and recall are means over the four directions; the F1 is a mean over the ten
    thresholds, weighted by threshold. As in Depth Pro's SI_boundary_F1, edges are not thinned.
    """
    joint = edge_counts.reshape(2, LEVELS, LEVELS)
    # Depth falls downwards and to the right; flipped, it falls upwards and to the left.
    directions = np.concatenate([joint, joint[:, ::-1, ::-1]])
    scores = []
    for k in range(len(THRESHOLDS)):
        level = len(THRESHOLDS) + 1 + k
        both = directions[:, level:, level:].sum((1, 2))
        true_edges = directions[:, level:].sum((1, 2))
        pred_edges = directions[:, :, level:].sum((1, 2))
        recall = (both / np.maximum(true_edges, 1)).mean()
        precision = (both / np.maximum(pred_edges, 1)).mean()
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return float(np.average(scores, weights=THRESHOLDS))
