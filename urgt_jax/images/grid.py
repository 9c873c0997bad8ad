"""Patches of an image: where they are, how they are cut and merged, where their tokens are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real, Shaped

from urgt_jax.errors import UserError
from urgt_jax.images import rows as rows_module

GRIDMIX_SIDE = 4  # rows and columns of patches from which GridMix takes a block


@jax.tree_util.register_static  # may be part of a batch that goes through jit
@dataclass(frozen=True)
class Grid:
    """Equal windows that cover an image, or a part of it, row by row."""

    image_size: tuple[int, int]  # height and width, pixels
    patch: tuple[int, int]  # height and width of a window, pixels
    tops: tuple[int, ...]  # first pixel row of each row of windows
    lefts: tuple[int, ...]  # first pixel column of each column of windows

    @cached_property
    def origins(self) -> Int[np.ndarray, "P 2"]:
        """First row and column of every window, pixels."""
        return np.array([(top, left) for top in self.tops for left in self.lefts], np.int32)

    def window(self, k: int) -> tuple[slice, slice]:
        """Rows and columns of window k."""
        top, left = self.origins[k]
        height, width = self.patch
        return slice(top, top + height), slice(left, left + width)

    @property
    def bounds(self) -> tuple[slice, slice]:
        """Rows and columns that the windows span together."""
        height, width = self.patch
        rows = slice(self.tops[0], self.tops[-1] + height)
        columns = slice(self.lefts[0], self.lefts[-1] + width)
        return rows, columns

    def relative_to_bounds(self) -> "Grid":
        """The same windows in the image that their bounds cut out."""
        rows, columns = self.bounds
        size = (rows.stop - rows.start, columns.stop - columns.start)
        tops = tuple(top - rows.start for top in self.tops)
        lefts = tuple(left - columns.start for left in self.lefts)
        return Grid(size, self.patch, tops, lefts)

    @property
    def count(self) -> int:
        """The number of windows."""
        return len(self.tops) * len(self.lefts)


def cover_image(height: int, width: int, rows: int, cols: int, overlap: float = 0.0) -> Grid:
    """Windows of 1/rows x 1/cols of an image that share `overlap` of a side with their neighbours.

    A UserError if there are more windows than pixels, or the overlap is not in [0, 1).
    """
    if rows < 1 or cols < 1 or rows > height or cols > width:
        raise UserError(
            f"a grid of {rows} x {cols} does not fit an image of {height} x {width} pixels: "
            "it needs at least one patch, and at least one pixel a patch"
        )
    if not 0 <= overlap < 1:
        raise UserError(f"overlap {overlap} is out of range: it is a share in [0, 1)")
    patch_height, tops = _starts(height, rows, overlap)
    patch_width, lefts = _starts(width, cols, overlap)
    return Grid((height, width), (patch_height, patch_width), tops, lefts)


def _starts(length: int, parts: int, overlap: float) -> tuple[int, tuple[int, ...]]:
    """Side of a window, and the starts of all windows; the last one ends at the border."""
    side = -(-length // parts)
    stride = max(side - int(overlap * side), 1)
    last = length - side
    return side, (*range(0, last, stride), last)


def choose_grid(
    size: tuple[int, int],
    requested: Sequence[int],
    patch_size: tuple[int, int],
    limit: int,
) -> tuple[int, int]:
    """Rows and columns as requested, or for (0, 0) those whose patches are closest to `patch_size`.

    These are at most `limit` patches: beyond it rows and columns are reduced by the same factor.
    """
    rows, cols = requested
    if (rows, cols) != (0, 0):
        return rows, cols
    rows = max(round(size[0] / patch_size[0]), 1)
    cols = max(round(size[1] / patch_size[1]), 1)
    if rows * cols > limit:
        scale = (limit / (rows * cols)) ** 0.5
        rows = max(int(rows * scale), 1)
        cols = max(int(cols * scale), 1)
    return min(rows, limit), min(cols, limit)


def count_block_positions(height: int, width: int, m: int, overlap: float = 0.0) -> tuple[int, int]:
    """The number of rows and of columns at which a block of m x m patches can begin."""
    full = cover_image(height, width, GRIDMIX_SIDE, GRIDMIX_SIDE, overlap)
    return len(full.tops) - m + 1, len(full.lefts) - m + 1


def gridmix_block(
    height: int, width: int, m: int, row: int, col: int, overlap: float = 0.0
) -> Grid:
    """GridMix's block of m x m patches, each a quarter of the image's sides."""
    full = cover_image(height, width, GRIDMIX_SIDE, GRIDMIX_SIDE, overlap)
    tops = full.tops[row : row + m]
    lefts = full.lefts[col : col + m]
    return Grid(full.image_size, full.patch, tops, lefts)


def cut_windows(
    image: Shaped[np.ndarray, "H W *C"], grid: Grid
) -> Iterator[Shaped[np.ndarray, "h w *C"]]:
    """The windows of an image or a map, one after the other."""
    for k in range(grid.count):
        yield image[grid.window(k)]


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
    height, width = grid.image_size
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


def centre_weight(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """A weight that falls linearly from 1 at a window's centre to almost 0 at its border."""
    return np.outer(_triangle(height), _triangle(width)).astype(np.float32)


def _triangle(n: int) -> Float[np.ndarray, "n"]:
    return 1.0 - np.abs((np.arange(n) + 0.5) / n * 2 - 1) * 0.98


def token_positions(
    origins: Real[Array | np.ndarray, "*B P 2"], patch: tuple[int, int], tokens: tuple[int, int]
) -> Float[Array, "*B P N 2"]:
    """Rows and columns of tokens over the whole image, in tokens, counted from 1.

    Position 0 is for special tokens. A patch at pixel origin (y, x) starts at token
    (y / h * rows, x / w * cols), a fraction where patches overlap: the paper's global coordinate.
    """
    rows, cols = tokens
    lattice = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
    tokens_per_pixel = np.array([rows / patch[0], cols / patch[1]], np.float32)
    start = jnp.asarray(origins, jnp.float32) * tokens_per_pixel
    return start[..., None, :] + lattice.reshape(-1, 2).astype(np.float32) + 1.0
