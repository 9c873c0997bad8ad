"""The field's metrics, per picture, in float32; NaN where a picture has no valid pixel."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from urgt_jax.geometry import angle
from urgt_jax.grid import Grid

Depth = Float[Array, "B H W"]
Mask = Bool[Array, "B H W"]
PerPicture = dict[str, Float[Array, "B"]]


def mean(x: Depth, mask: Mask) -> Float[Array, "B"]:
    """Mean per picture over its valid pixels."""
    axes = tuple(range(1, x.ndim))
    count = mask.sum(axes)
    return jnp.where(count > 0, jnp.where(mask, x, 0).sum(axes) / jnp.maximum(count, 1), jnp.nan)


class Alignment(NamedTuple):
    """Least squares fit of relative disparity to 1/depth, per picture: PRO's way."""

    scale: Float[Array, "B"]
    shift: Float[Array, "B"]

    def depth(self, disparity: Float[Array, "B *S"], max_depth: float) -> Float[Array, "B *S"]:
        """Depth in metres, at most max_depth."""
        wide = lambda x: x.reshape(-1, *(1,) * (disparity.ndim - 1))  # noqa: E731
        fitted = wide(self.scale) * disparity + wide(self.shift)
        return 1 / jnp.maximum(fitted, 1 / max_depth)


def align(disparity: Depth, depth: Depth, mask: Mask) -> Alignment:
    """The fit over valid pixels, in sums about the means, which keeps float32 exact."""
    goal = jnp.where(mask, 1 / jnp.where(mask, depth, 1.0), 0.0)
    centre, middle = mean(disparity, mask), mean(goal, mask)
    shifted = disparity - centre[:, None, None]
    spread = mean(shifted**2, mask)
    slope = mean(shifted * (goal - middle[:, None, None]), mask) / jnp.maximum(spread, 1e-12)
    return Alignment(slope, middle - slope * centre)


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


def consistency(
    patches: Float[np.ndarray, "P h w"], origins: np.ndarray, max_value: float
) -> float:
    """Mean absolute difference where overlapping patches in a lattice see the same pixels.

    As PatchRefinerV2's code: the strips that a patch shares with its left and with its upper
    neighbour, all pixels pooled. Give it 16 patches at `consistency_windows`.
    """
    rows, columns = np.unique(origins[:, 0]), np.unique(origins[:, 1])
    at = {tuple(origin): patch for origin, patch in zip(origins, patches, strict=True)}
    h, w = patches.shape[1:]
    total, count = 0.0, 0
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            here, pairs = at[top, left], []
            if j:
                step = left - columns[j - 1]
                pairs.append((here[:, : w - step], at[top, columns[j - 1]][:, step:]))
            if i:
                step = top - rows[i - 1]
                pairs.append((here[: h - step], at[rows[i - 1], left][step:]))
            for a, b in pairs:
                total += float(np.abs(np.minimum(a, max_value) - np.minimum(b, max_value)).sum())
                count += a.size
    return total / count if count else float("nan")


def consistency_windows(height: int, width: int) -> Grid:
    """The 4 x 4 overlapping windows of PatchRefinerV2's consistency error, at any size."""
    tops = [round(height * start / 2160) for start in (405, 675, 945, 1215)]
    lefts = [round(width * start / 3840) for start in (405, 1095, 1785, 2475)]
    return Grid((height, width), (height // 4, width // 4), tuple(tops), tuple(lefts))
