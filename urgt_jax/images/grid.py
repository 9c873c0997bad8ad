"""Patches of a picture: where they lie, how they are cut and put back, where their tokens are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from urgt_jax.errors import UserError
from urgt_jax.images import rows as rows_module


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

    def window(self, k: int) -> tuple[slice, slice]:
        """Rows and columns of window k."""
        (top, left), (h, w) = self.origins[k], self.patch
        return slice(top, top + h), slice(left, left + w)

    @property
    def bounds(self) -> tuple[slice, slice]:
        """Rows and columns that the windows span together."""
        (top, left), (h, w) = (self.tops[0], self.lefts[0]), self.patch
        return slice(top, self.tops[-1] + h), slice(left, self.lefts[-1] + w)

    def relative_to_bounds(self) -> "Grid":
        """The same windows in the picture that their bounds cut out."""
        rows, cols = self.bounds
        size = rows.stop - rows.start, cols.stop - cols.start
        tops = tuple(top - rows.start for top in self.tops)
        return Grid(size, self.patch, tops, tuple(left - cols.start for left in self.lefts))

    @property
    def count(self) -> int:
        """The number of windows."""
        return len(self.tops) * len(self.lefts)


def _starts(length: int, parts: int, overlap: float) -> tuple[int, tuple[int, ...]]:
    """Side of a window and where windows start, the last one moved to lie at the border."""
    side = -(-length // parts)
    stride = max(side - int(overlap * side), 1)
    return side, (*range(0, length - side, stride), length - side)


def cover_image(height: int, width: int, rows: int, cols: int, overlap: float = 0.0) -> Grid:
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


def choose_grid(
    size: tuple[int, int],
    asked: tuple[int, int],
    patch_size: tuple[int, int],
    limit: int,
) -> tuple[int, int]:
    """Rows and columns as asked, or for (0, 0) those whose patches have about `patch_size`.

    They are at most `limit` patches: beyond it both are scaled down alike.
    """
    if tuple(asked) != (0, 0):
        return tuple(asked)
    rows, cols = (max(round(side / p), 1) for side, p in zip(size, patch_size, strict=True))
    if rows * cols > limit:
        scale = (limit / (rows * cols)) ** 0.5
        rows, cols = (max(int(n * scale), 1) for n in (rows, cols))
    return min(rows, limit), min(cols, limit)


def count_block_positions(height: int, width: int, m: int, overlap: float = 0.0) -> tuple[int, int]:
    """In how many rows and columns a block of m x m patches can begin."""
    full = cover_image(height, width, 4, 4, overlap)
    return len(full.tops) - m + 1, len(full.lefts) - m + 1


def gridmix_block(
    height: int, width: int, m: int, row: int, col: int, overlap: float = 0.0
) -> Grid:
    """GridMix's block of m x m patches, each a quarter of the picture's sides."""
    full = cover_image(height, width, 4, 4, overlap)
    return Grid(full.picture, full.patch, full.tops[row : row + m], full.lefts[col : col + m])


def cut_windows(
    picture: Float[np.ndarray, "H W *C"], grid: Grid
) -> Iterator[Float[np.ndarray, "h w *C"]]:
    """The windows of a picture, one after the other."""
    return (picture[grid.window(k)] for k in range(grid.count))


def place(
    patches: Iterable[Float[np.ndarray, "h w C"]], grid: Grid, weight: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "H W C"]:
    """The image that windows make together, averaged with the weight where they overlap."""
    maps = ({"map": patch} for patch in patches)
    return np.concatenate([strip["map"] for _, strip in merge_windows(maps, grid, weight)])


def merge_windows(
    patches: Iterable[dict[str, Float[np.ndarray, "h w _"]]],
    grid: Grid,
    weight: Float[np.ndarray, "h w"],
) -> Iterator[tuple[slice, dict[str, Float[np.ndarray, "r W _"]]]]:
    """Averages overlapping windows with the weight, and yields rows of the merged maps.

    Every patch is a dict of the same maps. Rows come from the top, as soon as no later window
    reaches them: only one row of windows is in memory. The windows must cover the image.
    """
    patch_height, patch_width = grid.patch
    height, width = grid.picture
    weight = weight[..., None]
    weights = np.zeros((patch_height, width, 1), np.float32)
    totals: dict[str, np.ndarray] = {}
    patches = iter(patches)
    for top, next_top in pairwise((*grid.tops, height)):
        for left in grid.lefts:
            columns = slice(left, left + patch_width)
            weights[:, columns] += weight
            for name, values in next(patches).items():
                if name not in totals:
                    channels = values.shape[-1]
                    totals[name] = np.zeros((patch_height, width, channels), np.float32)
                totals[name][:, columns] += values * weight
        complete = next_top - top  # rows that no later window reaches
        for rows in rows_module.row_slices(complete):
            merged = {name: total[rows] / weights[rows] for name, total in totals.items()}
            yield slice(top + rows.start, top + rows.stop), merged
        for total in (weights, *totals.values()):
            total[: patch_height - complete] = total[complete:]
            total[patch_height - complete :] = 0


def centre_weight(height: int, width: int) -> np.ndarray:
    """[h, w] weight that falls from a window's centre towards its border, never to zero."""
    fall = lambda n: 1.0 - np.abs((np.arange(n) + 0.5) / n * 2 - 1) * 0.98  # noqa: E731
    return np.outer(fall(height), fall(width)).astype(np.float32)


def token_positions(
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
