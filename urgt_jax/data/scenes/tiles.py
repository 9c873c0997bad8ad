"""Tiles: squares of pixels, each with the solids that can be seen or cast shadows in it.

The renderer is compiled for tiles, so that one program serves images of all sizes, and no pixel is
tried against solids that are elsewhere.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from urgt_jax.data.scenes.arrays import padded_count
from urgt_jax.data.scenes.rays import KINDS, NEAREST
from urgt_jax.data.scenes.scene import Scene
from urgt_jax.data.scenes.solids import corners

Arrays = np.ndarray | jax.Array
SIDE = 56  # pixels; a multiple of the encoders' token size, so that usual images are whole tiles
GROUND = ("plane", "bumps")  # kinds that cast no shadow: ground, walls and ceilings
F = np.float32


class Tile(NamedTuple):
    """Tiles by number; one tile has the same fields without their first axis."""

    corner: Int[Arrays, "*T 2"]  # first row and column
    intrinsics: Float[Arrays, "*T 4"]  # fx, fy, cx, cy of the image, pixels
    # Numbers of the solids that can be seen, and of those that can cast a shadow, by kind.
    solids: Int[Arrays, "*T 2 S"]
    starts: Int[Arrays, "*T 2 K"]  # where each kind starts in `solids`, and where the last ends


def make_tiles(scene: Scene, intrinsics: Float[np.ndarray, "4"], height: int, width: int) -> Tile:
    """The tiles of an image from the top left, row by row; the last ones may reach beyond it."""
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    top, left = np.divmod(np.arange(rows * columns), columns)
    corner = np.stack([top, left], 1) * SIDE
    kinds = np.array([KINDS.index(solid.kind) for solid in scene.solids])
    boxes = np.stack([corners(solid) for solid in scene.solids])
    planes = np.array([solid.kind == "plane" for solid in scene.solids])
    seen = _near(boxes, intrinsics, corner) | planes
    casts = np.array([solid.kind not in GROUND and solid.casts_shadow for solid in scene.solids])
    if scene.shadow:
        swept = np.concatenate([boxes, boxes - scene.lights[0] * scene.shadow], 1)
        shaded = _near(swept, intrinsics, corner) & casts
    else:
        shaded = np.zeros_like(seen)
    lists, starts = zip(_lists(seen, kinds), _lists(shaded, kinds), strict=True)
    return Tile(
        corner=corner.astype(np.int32),
        intrinsics=np.broadcast_to(intrinsics.astype(F), (len(corner), 4)),
        solids=np.stack(lists, 1),
        starts=np.stack(starts, 1),
    )


def _near(
    boxes: Float[np.ndarray, "S points 3"], intrinsics: np.ndarray, corner: Int[np.ndarray, "T 2"]
) -> Bool[np.ndarray, "T S"]:
    """Whether the rectangle around the projections of points touches a tile."""
    z = boxes[..., 2]
    fx, fy, cx, cy = intrinsics
    with np.errstate(divide="ignore", invalid="ignore"):
        u = boxes[..., 0] / z * fx + cx
        v = boxes[..., 1] / z * fy + cy
    behind = z.max(1) < NEAREST
    everywhere = z.min(1) < NEAREST
    rows = _overlap(v.min(1), v.max(1), corner[:, :1])
    columns = _overlap(u.min(1), u.max(1), corner[:, 1:])
    return (everywhere | (rows & columns)) & ~behind


def _overlap(low, high, start) -> Bool[np.ndarray, "T S"]:
    """Whether intervals touch those of tiles, with a pixel to spare."""
    return (high > start - 1) & (low < start + SIDE + 1)


def _lists(chosen: Bool[np.ndarray, "T S"], kinds: Int[np.ndarray, "S"]):
    """The numbers of the chosen solids of each tile in the order of their kinds; where kinds start.

    Lists are as long as the number of all solids; what follows the last solid is not used.
    """
    order = np.argsort(kinds, kind="stable")
    chosen = chosen[:, order]
    counts = np.stack([chosen[:, kinds[order] == kind].sum(1) for kind in range(len(KINDS))], 1)
    starts = np.concatenate([np.zeros((len(chosen), 1), int), np.cumsum(counts, 1)], 1)
    places = np.argsort(~chosen, 1, kind="stable")
    lists = np.zeros((len(chosen), padded_count(len(kinds))), np.int32)
    lists[:, : len(kinds)] = order[places]
    return lists, starts.astype(np.int32)
