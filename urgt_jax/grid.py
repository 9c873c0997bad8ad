"""Patches of a picture: where they lie, how they are cut and put back, where their tokens are."""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from urgt_jax.errors import UserError


@dataclass(frozen=True)
class Grid:
    """Equal windows that cover a picture, or a part of it, row by row."""

    picture: tuple[int, int]  # height and width, pixels
    patch: tuple[int, int]  # height and width of a window, pixels
    tops: tuple[int, ...]  # first pixel row of each row of windows
    lefts: tuple[int, ...]  # first pixel column of each column of windows

    @cached_property
    def origins(self) -> np.ndarray:
        """[P, 2] first row and column of every window, pixels."""
        return np.array([(top, left) for top in self.tops for left in self.lefts], np.int32)

    @property
    def count(self) -> int:
        """The number of windows."""
        return len(self.tops) * len(self.lefts)


def _starts(length: int, parts: int, overlap: float) -> tuple[int, tuple[int, ...]]:
    """Side of a window and where windows start, the last one moved to lie at the border."""
    side = -(-length // parts)
    stride = max(side - int(overlap * side), 1)
    return side, (*range(0, length - side, stride), length - side)


def cover(height: int, width: int, rows: int, cols: int, overlap: float = 0.0) -> Grid:
    """Windows of 1/rows x 1/cols of a picture that share `overlap` of a side with the next one."""
    if rows < 1 or cols < 1 or rows > height or cols > width:
        raise UserError(
            f"a grid of {rows} x {cols} does not fit a picture of {height} x {width} pixels: "
            "it needs at least one patch, and at least one pixel a patch"
        )
    if not 0 <= overlap < 1:
        raise UserError(f"overlap {overlap} is out of range: it is a share in [0, 1)")
    high, tops = _starts(height, rows, overlap)
    wide, lefts = _starts(width, cols, overlap)
    return Grid((height, width), (high, wide), tops, lefts)


def block(height: int, width: int, m: int, row: int, col: int) -> Grid:
    """GridMix's block of m x m patches, each a quarter of the picture's sides."""
    full = cover(height, width, 4, 4)
    return Grid(full.picture, full.patch, full.tops[row : row + m], full.lefts[col : col + m])


def cut(picture: Float[Array, "H W C"], grid: Grid) -> Float[Array, "P h w C"]:
    """The windows of a picture."""
    size = (*grid.patch, picture.shape[-1])
    take = lambda at: jax.lax.dynamic_slice(picture, (at[0], at[1], 0), size)  # noqa: E731
    return jax.vmap(take)(jnp.asarray(grid.origins))


def place(
    patches: Float[Array, "P h w C"], grid: Grid, weight: Float[Array, "h w"]
) -> Float[Array, "H W C"]:
    """The picture that windows make together, where they overlap averaged with the weight."""
    height, width = grid.picture
    channels = patches.shape[-1]

    def add(total, item):
        at, patch = item
        seen = jax.lax.dynamic_slice(total, (at[0], at[1], 0), (*grid.patch, channels + 1))
        both = jnp.concatenate([patch * weight[..., None], weight[..., None]], -1)
        return jax.lax.dynamic_update_slice(total, seen + both, (at[0], at[1], 0)), None

    empty = jnp.zeros((height, width, channels + 1), patches.dtype)
    total, _ = jax.lax.scan(add, empty, (jnp.asarray(grid.origins), patches))
    return total[..., :-1] / jnp.maximum(total[..., -1:], 1e-12)


def centre_weight(height: int, width: int) -> np.ndarray:
    """[h, w] weight that falls from a window's centre towards its border, never to zero."""
    fall = lambda n: 1.0 - np.abs((np.arange(n) + 0.5) / n * 2 - 1) * 0.98  # noqa: E731
    return np.outer(fall(height), fall(width)).astype(np.float32)


def positions(
    origins: Float[Array, "*B P 2"], patch: tuple[int, int], tokens: tuple[int, int]
) -> Float[Array, "*B P N 2"]:
    """Rows and columns of tokens over the whole picture, in tokens, counted from 1 (0 is special).

    A patch at pixel origin (y, x) starts at token (y / h * rows, x / w * cols), a fraction where
    patches overlap: the paper's global coordinate.
    """
    rows, cols = tokens
    lattice = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
    scale = np.array([rows / patch[0], cols / patch[1]], np.float32)
    start = jnp.asarray(origins, jnp.float32) * scale
    return start[..., None, :] + lattice.reshape(-1, 2).astype(np.float32) + 1.0
