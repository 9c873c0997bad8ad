"""Scores of depth in metres: the errors of the PatchFusion family, and those at edges."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.d3r import d3r
from urgt_jax.evaluation.metrics.protocol import MIN_DEPTH, Truth, same_size

THRESHOLDS = np.linspace(1.05, 1.25, 10)  # ratios of depth that make an edge, Depth Pro's
LEVELS = 2 * len(THRESHOLDS) + 1  # how many a step exceeds, with its sign, counted from -10
NO_PAIR = LEVELS**2
MEANS = ("abs_rel", "sq_rel", "rmse", "log10", "delta1", "delta2", "delta3")  # of pixels


def depth_scores(
    depth: Float[np.ndarray, "H W"],
    truth: Truth,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> dict[str, float]:
    """All scores of a depth map in metres, as `to_metres` makes it; NaN where nothing is valid.

    PatchFusion's abs_rel, sq_rel and rmse (metres), log10, rmse_log, silog (percent) and delta1 to
    delta3 (shares); Depth Pro's boundary_f1, over pairs of valid pixels; SMD-Nets' see (metres),
    only with stereo and 0 without edges; `d3r`.
    """
    same_size(depth, truth)
    sums: dict[str, float] = {}
    logs, edges = [], np.zeros((2, NO_PAIR + 1), np.int64)
    for _, found in tiled.scan(
        _tile, (depth, truth.depth, truth.known), [truth.stereo or 0.0],
        halo=1, tile=tile, devices=devices,
    ):  # fmt: skip
        steps, centre = found.pop("steps"), found.pop("centre")
        edges += [np.bincount(x.ravel(), minlength=NO_PAIR + 1) for x in steps]
        new = {name: float(x.sum(dtype=np.float64)) for name, x in found.items()}
        logs.append((new["count"], float(centre), new.pop("log"), new.pop("log_square")))
        sums = {name: sums.get(name, 0.0) + value for name, value in new.items()}
    count = sums["count"]
    scores = {name: sums[name] / count if count else float("nan") for name in MEANS}
    scores["rmse"] = float(np.sqrt(scores["rmse"]))
    scores |= _log_scores(np.array(logs))
    scores["boundary_f1"] = boundary_f1(edges[:, :NO_PAIR]) if count else float("nan")
    if truth.stereo is not None:
        empty = 0.0 if count else float("nan")
        scores["see"] = sums["edge_error"] / sums["edge_count"] if sums["edge_count"] else empty
    return scores | {"d3r": d3r(depth, truth)}


def _log_scores(logs: Float[np.ndarray, "T 4"]) -> dict[str, float]:
    """RMSElog and SILog from each tile's count, centre, and sums about the centre."""
    count, centre, first, second = logs[logs[:, 0] > 0].T
    if not count.size:
        return {"rmse_log": float("nan"), "silog": float("nan")}
    means = centre + first / count
    mean = np.average(means, weights=count)
    # The variance inside tiles, and that of their means: no difference of large numbers.
    variance = (second - first**2 / count + count * (means - mean) ** 2).sum() / count.sum()
    variance = max(variance, 0.0)
    return {"rmse_log": float(np.sqrt(mean**2 + variance)), "silog": float(100 * variance**0.5)}


def _tile(
    pred: Float[Array, "h w"],
    depth: Float[Array, "h w"],
    valid: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "1"],
) -> dict[str, Array]:
    """Sums down the columns of a tile, which float32 holds well, and the steps at its pixels."""
    p, g = jnp.maximum(jnp.where(valid, pred, 1.0), MIN_DEPTH), jnp.where(valid, depth, 1.0)
    inner = (slice(1, -1), slice(1, -1))
    found = _errors(p[inner], g[inner], valid[inner])
    edge, error = _soft_edges(pred, depth, numbers[0])
    edge &= valid[inner]
    found |= {
        "edge_count": edge.sum(0),
        "edge_error": jnp.where(edge, error, 0).sum(0),
        "steps": jnp.stack([_steps(p, g, valid, axis) for axis in (0, 1)]),
    }
    return found


def _errors(p, g, valid) -> dict[str, Array]:
    add = lambda x: jnp.where(valid, x, 0).sum(0)  # noqa: E731
    difference, ratio = p - g, jnp.maximum(g / p, p / g)
    log = jnp.log1p(difference / g)  # keeps its digits where both are nearly equal
    count = valid.sum(0)
    centre = add(log).sum() / jnp.maximum(count.sum(), 1)
    return {
        "count": count,
        "abs_rel": add(jnp.abs(difference) / g),
        "sq_rel": add(difference**2 / g),
        "rmse": add(difference**2),
        "log10": add(jnp.abs(log) / np.log(10)),
        **{f"delta{k}": (valid & (ratio < 1.25**k)).sum(0) for k in (1, 2, 3)},
        "centre": centre,
        "log": add(log - centre),
        "log_square": add((log - centre) ** 2),
    }


def _soft_edges(pred, depth, stereo):
    """Whether a pixel is at an edge, and its error against the nearest depth of 3 x 3 pixels.

    Edges are steps of more than one pixel of true disparity, marked on both sides. Depths beyond
    the valid ones take part where they are known, as in the released code, but what is unknown or
    outside the picture does not: there the released code compares with a depth of 0.
    """
    h, w = (n - 2 for n in depth.shape)
    shifted = lambda x, dy, dx: x[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]  # noqa: E731
    known = depth > 0
    disparity = jnp.where(known, stereo / jnp.where(known, depth, 1.0), jnp.nan)
    here = shifted(disparity, 0, 0)
    edge = jnp.zeros((h, w), bool)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        edge |= jnp.abs(shifted(disparity, dy, dx) - here) > 1  # false where one is unknown
    near = jnp.where(known, depth, jnp.inf)
    error = jnp.full((h, w), jnp.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            error = jnp.minimum(error, jnp.abs(shifted(near, dy, dx) - shifted(pred, 0, 0)))
    return edge, error


def _steps(p, g, valid, axis: int) -> Int[Array, "h w"]:
    """The edge levels of truth and prediction from each pixel to the next one, as one number."""
    h, w = (n - 2 for n in g.shape)
    here = lambda x: x[1 : 1 + h, 1 : 1 + w]  # noqa: E731
    after = lambda x: x[2 : 2 + h, 1 : 1 + w] if axis == 0 else x[1 : 1 + h, 2 : 2 + w]  # noqa: E731
    codes = [_level(here(x), after(x)) + len(THRESHOLDS) for x in (g, p)]
    pair = here(valid) & after(valid)
    return jnp.where(pair, codes[0] * LEVELS + codes[1], NO_PAIR).astype(jnp.uint16)


def _level(a, b):
    """How many thresholds the ratio exceeds, positive where depth falls."""
    ratio = jnp.maximum(a, b) / jnp.minimum(a, b)
    count = sum((ratio > t).astype(jnp.int32) for t in THRESHOLDS)
    return jnp.where(a > b, count, -count)


def boundary_f1(edges: Int[np.ndarray, "2 L"]) -> float:
    """Depth Pro's F1 of occlusion edges from counts of (true, predicted) levels along both axes.

    Precision and recall are averaged over the four directions, F1 over the ten thresholds with the
    threshold as weight; nothing is thinned, as in Depth Pro's SI_boundary_F1.
    """
    joint = edges.reshape(2, LEVELS, LEVELS)
    ways = np.concatenate([joint, joint[:, ::-1, ::-1]])  # depth falls down, right; up, left
    scores = []
    for k in range(len(THRESHOLDS)):
        least = len(THRESHOLDS) + 1 + k
        both = ways[:, least:, least:].sum((1, 2))
        recall = (both / np.maximum(ways[:, least:].sum((1, 2)), 1)).mean()
        precision = (both / np.maximum(ways[:, :, least:].sum((1, 2)), 1)).mean()
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return float(np.average(scores, weights=THRESHOLDS))
