"""What shows that a map was made of patches: seams, and overlapping patches that differ."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from urgt_jax.errors import UserError
from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.protocol import MIN_DEPTH, Truth, same_size
from urgt_jax.images.grid import Grid


def seams(
    depth: Float[np.ndarray, "H W"],
    truth: Truth,
    grid: Grid,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> dict[str, float]:
    """Mean |step of ln depth - its true step| between neighbours across borders of patches.

    Borders are the edges of every window of the grid inside the picture; `seam_elsewhere` is the
    same over all other pairs of valid neighbours. A seam far above it can be seen. NaN without
    such pairs. The measure is this project's own.
    """
    same_size(depth, truth)
    if grid.image_size != truth.depth.shape:
        raise UserError(f"a grid on {grid.image_size} pixels is not one on {truth.depth.shape}")
    sums = [np.zeros((2, n)) for n in truth.depth.shape]  # errors and pairs after each row, column
    maps = (depth, truth.depth, truth.known)
    for here, found in tiled.scan(_tile, maps, halo=1, tile=tile, devices=devices):
        for axis, part in enumerate(here):
            for total, name in zip(sums[axis], ("error", "count"), strict=True):
                total[part] += found[f"{name}{axis}"][: part.stop - part.start]
    starts = (grid.tops, grid.lefts)
    across = [_borders(*x) for x in zip(starts, grid.patch, grid.image_size, strict=True)]
    error, count = sum(s[:, at].sum(1) for s, at in zip(sums, across, strict=True))
    rest, others = sum(s[:, ~at].sum(1) for s, at in zip(sums, across, strict=True))
    share = lambda a, n: float(a / n) if n else float("nan")  # noqa: E731
    return {"seam": share(error, count), "seam_elsewhere": share(rest, others)}


def _borders(starts: tuple[int, ...], side: int, length: int) -> Bool[np.ndarray, "N"]:
    """Whether a window begins or ends between each row (or column) and the next one."""
    found = np.zeros(length, bool)
    edges = {edge for start in starts for edge in (start, start + side)} - {0, length}
    found[[edge - 1 for edge in edges]] = True
    return found


def _tile(
    pred: Float[Array, "h w"],
    depth: Float[Array, "h w"],
    valid: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "0"],
) -> dict[str, Array]:
    """Errors of the steps to the next pixel, summed along rows (0) and along columns (1)."""
    pred, depth = (jnp.where(valid, jnp.maximum(x, MIN_DEPTH), 1.0) for x in (pred, depth))
    h, w = (n - 2 for n in depth.shape)
    found = {}
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        after = (slice(1 + dy, 1 + dy + h), slice(1 + dx, 1 + dx + w))
        here = (slice(1, -1), slice(1, -1))
        pair = valid[here] & valid[after]
        step = jnp.log(pred[after] / pred[here]) - jnp.log(depth[after] / depth[here])
        found[f"error{axis}"] = jnp.where(pair, jnp.abs(step), 0).sum(1 - axis)
        found[f"count{axis}"] = pair.sum(1 - axis)
    return found


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
