"""The field's metrics, per picture, in float32; NaN where a picture has no valid pixel."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from urgt_jax.geometry import angle

Depth = Float[Array, "B H W"]
Mask = Bool[Array, "B H W"]
PerPicture = dict[str, Float[Array, "B"]]


def mean(x: Depth, mask: Mask) -> Float[Array, "B"]:
    """Mean per picture over its valid pixels."""
    axes = tuple(range(1, x.ndim))
    count = mask.sum(axes)
    return jnp.where(count > 0, jnp.where(mask, x, 0).sum(axes) / jnp.maximum(count, 1), jnp.nan)


def align_disparity(disparity: Depth, depth: Depth, mask: Mask, max_depth: float) -> Depth:
    """Depth in metres from relative disparity: least squares per picture onto 1/depth, PRO's way."""
    safe = jnp.where(mask, depth, 1.0)
    goal = jnp.where(mask, 1 / safe, 0.0)
    wide = lambda x: x[:, None, None]  # noqa: E731
    centre, middle = wide(mean(disparity, mask)), wide(mean(goal, mask))
    shifted = disparity - centre
    spread = wide(mean(shifted**2, mask))
    scale = wide(mean(shifted * (goal - middle), mask)) / jnp.maximum(spread, 1e-12)
    return 1 / jnp.maximum(scale * shifted + middle, 1 / max_depth)


def depth_metrics(pred: Depth, depth: Depth, mask: Mask) -> PerPicture:
    """Errors of depth in metres: PatchFusion's list."""
    g, p = jnp.where(mask, depth, 1.0), jnp.where(mask, jnp.maximum(pred, 1e-6), 1.0)
    log, ratio = jnp.log(p) - jnp.log(g), jnp.maximum(g / p, p / g)
    centred = log - mean(log, mask)[:, None, None]
    return {
        "abs_rel": mean(jnp.abs(g - p) / g, mask),
        "sq_rel": mean((g - p) ** 2 / g, mask),
        "rmse": jnp.sqrt(mean((g - p) ** 2, mask)),
        "rmse_log": jnp.sqrt(mean(log**2, mask)),
        "log10": mean(jnp.abs(log), mask) / np.log(10),
        "silog": 100 * jnp.sqrt(mean(centred**2, mask)),
        **{f"delta{k}": mean((ratio < 1.25**k).astype(jnp.float32), mask) for k in (1, 2, 3)},
    }


def boundary_f1(pred: Depth, depth: Depth, mask: Mask) -> Float[Array, "B"]:
    """Depth Pro's F1 of occlusion edges, weighted over ten thresholds of the depth ratio."""
    thresholds = np.linspace(1.05, 1.25, 10)
    scores = [_edge_f1(pred, depth, mask, t) for t in thresholds]
    return sum(s * t for s, t in zip(scores, thresholds, strict=True)) / thresholds.sum()


def _edge_f1(pred: Depth, depth: Depth, mask: Mask, threshold: float) -> Float[Array, "B"]:
    """F1 from precision and recall that are averaged over the four directions."""
    found, hits = [], []
    for axis in (1, 2):
        known = _first(mask, axis) & _second(mask, axis)
        for swap in (False, True):
            true, guess = (_steeper(x, axis, swap, threshold) & known for x in (depth, pred))
            both = (true & guess).sum((1, 2))
            found.append(both / jnp.maximum(guess.sum((1, 2)), 1))
            hits.append(both / jnp.maximum(true.sum((1, 2)), 1))
    precision, recall = sum(found) / 4, sum(hits) / 4
    f1 = 2 * precision * recall / jnp.maximum(precision + recall, 1e-12)
    return jnp.where(mask.any((1, 2)), f1, jnp.nan)


def _first(x, axis: int):
    return x[:, :-1] if axis == 1 else x[:, :, :-1]


def _second(x, axis: int):
    return x[:, 1:] if axis == 1 else x[:, :, 1:]


def _steeper(x: Depth, axis: int, swap: bool, threshold: float):
    """Whether depth grows (or falls, swapped) by more than the ratio to the next pixel."""
    near, far = _first(x, axis), _second(x, axis)
    return near > threshold * far if swap else far > threshold * near


def normal_metrics(
    pred: Float[Array, "B H W 3"], target: Float[Array, "B H W 3"], mask: Mask
) -> PerPicture:
    """Degrees between unit normals: mean, median, RMSE, and the percentage below thresholds."""
    error = angle(pred, target)
    ranked = jnp.where(mask, error, jnp.nan).reshape(error.shape[0], -1)
    return {
        "mean": mean(error, mask),
        "median": jnp.nanmedian(ranked, 1),
        "rmse": jnp.sqrt(mean(error**2, mask)),
        **{
            f"below_{t:g}": 100 * mean((error < t).astype(jnp.float32), mask)
            for t in (5, 7.5, 11.25, 22.5, 30)
        },
    }
