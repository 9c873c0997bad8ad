"""UnrealStereo4K as tiles in a TFDS data set: a window is read at the cost of its own pixels.

A frame is stored as 16 records, the 4 x 4 windows that GridMix takes its blocks from. Records are
not compressed: docs/log.md says what zstd would save and cost.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Float, UInt8

from urgt_jax.data.samples import WHOLE, Sample, Window, crop_intrinsics
from urgt_jax.data.tfds import Records, open_builder
from urgt_jax.errors import UserError, reason, require
from urgt_jax.files import inside, parse_json, unseal
from urgt_jax.images.grid import Grid, cover_image
from urgt_jax.remote import scheme

SIDE = 4  # rows and columns of tiles, as in GridMix
TILES = SIDE * SIDE  # tiles of a frame
SKIPPED = "skipped.txt"  # lists the frames that could not be prepared, and why
INDEX = "frames.json"  # names and sizes of all frames, so that no record is read for them

# Of the paths that ArrayRecord opens; a local one has none. It reads single records from gs://.
ARRAY_RECORD_SCHEMES = ("", "gs")

Span = tuple[int, int]  # first row or column, and the one after the last


class Frame(NamedTuple):
    """A frame as it was measured."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    disparity: Float[np.ndarray, "H W"]  # float32, pixels, 0 where infinitely far
    intrinsics: Float[np.ndarray, "4"]  # float32, fx, fy, cx, cy, pixels
    baseline: float  # metres


def frame_tiles(frame: Frame) -> Iterator[dict]:
    """The records of a frame, row by row."""
    grid = frame_grid(frame.disparity.shape)
    for number in range(TILES):
        window = grid.window(number)
        yield {
            "image": np.ascontiguousarray(frame.image[window]),
            "disparity": np.ascontiguousarray(frame.disparity[window]),
            "intrinsics": frame.intrinsics,
            "baseline": np.float32(frame.baseline),
            "frame": frame.name,
            "tile": np.int32(number),
        }


def frame_grid(size: tuple[int, int]) -> Grid:
    """The windows of a frame that are stored as tiles."""
    height, width = size
    return cover_image(height, width, SIDE, SIDE)


class Unreal4k:
    """A split of UnrealStereo4K in tiles. Depth is infinite where disparity is 0."""

    default_split = "test_in"
    train_split = "train"

    def __init__(self, path: Path, split: str = ""):
        self.path = Path(path)
        self.split = split or self.default_split
        self.frames = read_index(self.path, self.split)
        require(
            len(self.frames) > 0,
            f"split {self.split} of {self.path} has no frames. {SKIPPED} there says why",
        )
        self.tiles = open_tiles(self.path, self.split)
        require(
            len(self.tiles) == TILES * len(self.frames),
            f"{self.path} has {len(self.tiles)} tiles in split {self.split}, but "
            f"{len(self.frames)} frames need {TILES * len(self.frames)}. Prepare it again",
        )

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        """Scene and number of the frame."""
        name, _ = self.frames[index]
        return name

    def scene(self, index: int) -> str:
        """The scene of the frame."""
        return self.name(index).split("_")[0]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        _, size = self.frames[index]
        return size

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of a frame, from the tiles that it touches."""
        size = self.size(index)
        rows = window[0].indices(size[0])[:2]
        columns = window[1].indices(size[1])[:2]
        shape = rows[1] - rows[0], columns[1] - columns[0]
        require(min(shape) >= 1, f"the window {rows} x {columns} of {self.name(index)} is empty")
        image = np.empty((*shape, 3), np.uint8)
        disparity = np.empty(shape, np.float32)
        grid = frame_grid(size)
        for number in tiles_of_window(grid, rows, columns):
            tile = self._read_tile(index, number)
            tile_rows, tile_columns = grid.window(number)
            to_rows, from_rows = overlap(tile_rows, rows)
            to_columns, from_columns = overlap(tile_columns, columns)
            image[to_rows, to_columns] = tile["image"][from_rows, from_columns]
            disparity[to_rows, to_columns] = tile["disparity"][from_rows, from_columns]
        # The calibration of the frame is in each of its tiles.
        intrinsics = crop_intrinsics(tile["intrinsics"], window, size)
        stereo = float(intrinsics[0]) * float(tile["baseline"])
        valid = disparity > 0
        depth = np.full(shape, np.inf, np.float32)
        np.divide(np.float32(stereo), disparity, out=depth, where=valid)
        return Sample(image, depth, valid, intrinsics, stereo)

    def _read_tile(self, index: int, number: int) -> dict:
        try:
            return self.tiles[TILES * index + number]
        except Exception as error:  # a damaged record raises many kinds of error
            raise UserError(
                f"tile {number} of frame {self.name(index)} cannot be read "
                f"({type(error).__name__}): delete {self._file_of(index)} and prepare it again"
            ) from error

    def _file_of(self, index: int) -> str:
        """The file that holds a frame."""
        split = self.tiles.dataset_info.splits[self.split]
        ends = np.cumsum(split.shard_lengths)
        return str(split.filepaths[np.searchsorted(ends, TILES * index, side="right")])


def read_index(path: Path, split: str) -> list[tuple[str, tuple[int, int]]]:
    """Name and size of each frame of a split."""
    index = path / INDEX
    require(
        index.is_file(),
        f"{path} holds no prepared data set: {INDEX} is missing. Run urgt prepare unreal4k first",
    )
    try:
        frames = unseal(parse_json(index.read_text()))
        require(split in frames, f"{path} has no split {split!r}. It has {', '.join(frames)}")
        for name, _ in frames[split]:
            inside(path, name)  # coarse maps and predictions are files of that name
        return [(name, (height, width)) for name, (height, width) in frames[split]]
    except (ValueError, TypeError) as error:
        raise UserError(f"{index} is damaged ({error}): prepare the data set again") from error


def open_tiles(path: Path, split: str) -> Records:
    """The tiles of a split, as a data source of TFDS."""
    require(
        scheme(path) in ARRAY_RECORD_SCHEMES,
        f"{path}: tiles are read from gs:// or from local folders only. Copy the data set, or "
        "mount the bucket and pass its folder",
    )
    try:
        return open_builder(path).as_data_source(split=split)
    except UserError as error:
        raise UserError(f"{error}: prepare it again") from error
    except Exception as error:  # TFDS has no error of its own for damaged or missing files
        raise UserError(f"TFDS cannot open {path} ({reason(error)}): prepare it again") from error


def tiles_of_window(grid: Grid, rows: Span, columns: Span) -> list[int]:
    """The numbers of the fewest tiles that cover some rows and columns."""
    height, width = grid.patch
    tile_columns = cover_span(grid.lefts, width, columns)
    numbers = []
    for i in cover_span(grid.tops, height, rows):
        numbers += [SIDE * i + j for j in tile_columns]
    return numbers


def cover_span(starts: tuple[int, ...], side: int, span: Span) -> list[int]:
    """The fewest tiles along one axis that cover a span. The last tile may overlap the others."""
    tiles = []
    covered, end = span
    while covered < end:
        tile = max(i for i, start in enumerate(starts) if start <= covered)
        tiles.append(tile)
        covered = starts[tile] + side
    return tiles


def overlap(tile: slice, span: Span) -> tuple[slice, slice]:
    """The pixels that a tile and a span share, counted from the span's start and the tile's."""
    first = max(tile.start, span[0])
    last = min(tile.stop, span[1])
    return slice(first - span[0], last - span[0]), slice(first - tile.start, last - tile.start)
