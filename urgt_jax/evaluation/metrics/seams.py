"""Metrics that expose patches: seams at their borders, and differences where they overlap."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from urgt_jax.errors import UserError
from urgt_jax.evaluation.metrics import tiled
from urgt_jax.evaluation.metrics.protocol import MIN_DEPTH, GroundTruth, check_size
from urgt_jax.images.grid import Grid


def seams(
    depth: Float[np.ndarray, "H W"],
    truth: GroundTruth,
    grid: Grid,
    devices: tiled.Devices = None,
    tile: tiled.Size = tiled.TILE,
) -> dict[str, float]:
    """Mean |step of ln depth - true step of ln depth| between neighbours across patch borders.

    Borders are the edges of all windows of the grid inside the image. `seam_elsewhere` is the
    same mean over all other pairs of valid neighbours; a seam is visible if `seam` is far above
    it. NaN without such pairs. This metric is our own.
    """
    check_size(depth, truth)
    if grid.image_size != truth.depth.shape:
        raise UserError(
            f"a grid on {grid.image_size} pixels does not fit an image of {truth.depth.shape}"
        )
    height, width = truth.depth.shape
    # By axis: the errors (row 0) and the pairs (row 1) after each image row or column.
    sums = [np.zeros((2, height)), np.zeros((2, width))]
    maps = (depth, truth.depth, truth.known)
    for region, outputs in tiled.scan(step_errors, maps, halo=1, tile=tile, devices=devices):
        for axis in (0, 1):
            part = region[axis]
            length = part.stop - part.start
            sums[axis][0, part] += outputs[f"error{axis}"][:length]
            sums[axis][1, part] += outputs[f"count{axis}"][:length]
    on_border = (
        window_borders(grid.tops, grid.patch[0], height),
        window_borders(grid.lefts, grid.patch[1], width),
    )
    border = sums[0][:, on_border[0]].sum(1) + sums[1][:, on_border[1]].sum(1)
    elsewhere = sums[0][:, ~on_border[0]].sum(1) + sums[1][:, ~on_border[1]].sum(1)
    return {"seam": ratio(*border), "seam_elsewhere": ratio(*elsewhere)}


def ratio(total: float, count: float) -> float:
    """A mean from its sum and count; NaN if nothing was counted."""
    return float(total / count) if count else float("nan")


def window_borders(starts: tuple[int, ...], side: int, length: int) -> Bool[np.ndarray, "N"]:
    """Whether a window starts or ends between each row (or column) and the next one."""
    borders = np.zeros(length, bool)
    for start in starts:
        for edge in (start, start + side):
            if 0 < edge < length:
                borders[edge - 1] = True
    return borders


def step_errors(
    pred: Float[Array, "h w"],
    depth: Float[Array, "h w"],
    valid: Bool[Array, "h w"],
    origin: Float[Array, "2"],
    numbers: Float[Array, "0"],
) -> dict[str, Array]:
    """Errors of the steps to the next pixel of a tile, summed along rows (0) and columns (1)."""
    pred = jnp.where(valid, jnp.maximum(pred, MIN_DEPTH), 1.0)
    depth = jnp.where(valid, jnp.maximum(depth, MIN_DEPTH), 1.0)
    height = depth.shape[0] - 2
    width = depth.shape[1] - 2
    outputs = {}
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        here = (slice(1, -1), slice(1, -1))
        after = (slice(1 + dy, 1 + dy + height), slice(1 + dx, 1 + dx + width))
        pair = valid[here] & valid[after]
        pred_step = jnp.log(pred[after] / pred[here])
        true_step = jnp.log(depth[after] / depth[here])
        error = jnp.where(pair, jnp.abs(pred_step - true_step), 0)
        outputs[f"error{axis}"] = error.sum(1 - axis)
        outputs[f"count{axis}"] = pair.sum(1 - axis)
    return outputs


def consistency(
    patches: Float[np.ndarray, "P h w"], origins: np.ndarray, max_value: float
) -> float:
    """The consistency error: mean absolute difference where patches of a lattice overlap.

    As in PatchRefinerV2's code, it pools all pixels that a patch shares with its left and its
    upper neighbour. The published error takes the 16 patches at `consistency_windows`.
    """
    height, width = patches.shape[1:]
    tops = np.unique(origins[:, 0])
    lefts = np.unique(origins[:, 1])
    patch_at = {tuple(origin): patch for origin, patch in zip(origins, patches, strict=True)}
    total = 0.0
    count = 0
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            patch = patch_at[top, left]
            overlaps = []
            if j > 0:
                step = left - lefts[j - 1]
                neighbour = patch_at[top, lefts[j - 1]]
                overlaps.append((patch[:, : width - step], neighbour[:, step:]))
            if i > 0:
                step = top - tops[i - 1]
                neighbour = patch_at[tops[i - 1], left]
                overlaps.append((patch[: height - step], neighbour[step:]))
            for a, b in overlaps:
                difference = np.minimum(a, max_value) - np.minimum(b, max_value)
                total += float(np.abs(difference).sum())
                count += a.size
    return ratio(total, count)


def consistency_windows(height: int, width: int) -> Grid:
    """The 4 x 4 overlapping windows of PatchRefinerV2's consistency error, for any image size."""
    tops = tuple(round(height * top / 2160) for top in (405, 675, 945, 1215))
    lefts = tuple(round(width * left / 3840) for left in (405, 1095, 1785, 2475))
    return Grid((height, width), (height // 4, width // 4), tops, lefts)
