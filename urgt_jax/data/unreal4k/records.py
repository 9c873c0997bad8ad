"""Frames in tiles, as a TFDS data set: a window is read at the cost of its own pixels.

A frame is 16 records, the windows of `grid.cover(H, W, 4, 4)` that GridMix takes blocks of. They
are not compressed: docs/log.md has what zstd would save and cost.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from urgt_jax.data.samples import WHOLE, Sample, Window, crop_intrinsics
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.images.grid import Grid

SIDE = 4  # tiles a side, as GridMix has it
TILES = SIDE * SIDE
SKIPPED = "skipped.txt"  # frames that are not there, and why
INDEX = "frames.json"  # names and sizes of all frames, so that none must be opened for them
OPTIONS = "group_size:1,uncompressed"  # of ArrayRecord: every record is read on its own
RAW = tfds.features.Encoding.BYTES


def features() -> tfds.features.FeaturesDict:
    """What a record holds; a frame's calibration is in each of its tiles."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding=RAW),
            "disparity": tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding=RAW),
            "intrinsics": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "baseline": tfds.features.Scalar(np.float32),
            "frame": tfds.features.Text(),
            "tile": tfds.features.Scalar(np.int32),
        }
    )


class Frame(NamedTuple):
    """A frame as it was measured."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    disparity: Float[np.ndarray, "H W"]  # float32, pixels, 0 where infinitely far
    intrinsics: Float[np.ndarray, "4"]  # float32, fx, fy, cx, cy, pixels
    baseline: float  # metres


def serialized(frame: Frame) -> Iterator[bytes]:
    """The records of a frame, the same bytes whoever makes them."""
    spec = features()
    for record in records(frame):
        # Protocol buffers write a map in an order that changes from process to process.
        example = tf_example_pb2.Example.FromString(spec.serialize_example(record))
        yield example.SerializeToString(deterministic=True)


def records(frame: Frame) -> Iterator[dict]:
    """The tiles of a frame, row by row."""
    windows = grid.cover_image(*frame.disparity.shape, SIDE, SIDE)
    for number in range(TILES):
        here = windows.window(number)
        yield {
            "image": np.ascontiguousarray(frame.image[here]),
            "disparity": np.ascontiguousarray(frame.disparity[here]),
            "intrinsics": frame.intrinsics,
            "baseline": np.float32(frame.baseline),
            "frame": frame.name,
            "tile": np.int32(number),
        }


class Tiled:
    """A split of a tiled data set; depth is infinite where disparity is 0."""

    def __init__(self, directory: Path, split: str):
        self.directory, self.split = Path(directory), split
        self.frames = _index(self.directory, split)
        if not self.frames:
            raise UserError(
                f"split {split} of {self.directory} has no frame: {SKIPPED} there says why"
            )
        self.tiles = _open(self.directory, split)
        if len(self.tiles) != TILES * len(self.frames):
            raise UserError(
                f"{self.directory} has {len(self.tiles)} tiles of split {split} for "
                f"{len(self.frames)} frames: it is not whole, prepare it again"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        """Scene and number of the frame."""
        return self.frames[index][0]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return tuple(self.frames[index][1])

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """Only the tiles that the window touches are read."""
        height, width = self.size(index)
        rows, cols = (s.indices(n)[:2] for s, n in zip(window, (height, width), strict=True))
        shape = rows[1] - rows[0], cols[1] - cols[0]
        if min(shape) < 1:
            raise UserError(f"the window {rows} x {cols} of {self.name(index)} is empty")
        image, disparity = np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32)
        windows = grid.cover_image(height, width, SIDE, SIDE)
        for number in _touched(windows, rows, cols):
            tile = self._tile(index, number)
            there, here = _overlap(windows, number, rows, cols)
            image[there], disparity[there] = tile["image"][here], tile["disparity"][here]
        camera = crop_intrinsics(tile["intrinsics"], window, (height, width))
        return _sample(image, disparity, camera, float(tile["baseline"]))

    def _tile(self, index: int, number: int) -> dict:
        try:
            return self.tiles[TILES * index + number]
        except Exception as error:  # whatever a damaged record makes the libraries raise
            raise UserError(
                f"tile {number} of frame {self.name(index)} cannot be read "
                f"({type(error).__name__}): delete {self._file(index)} and prepare it again"
            ) from error

    def _file(self, index: int) -> str:
        """The file that holds a frame."""
        split = self.tiles.dataset_info.splits[self.split]
        ends = np.cumsum(split.shard_lengths)
        return str(split.filepaths[np.searchsorted(ends, TILES * index, side="right")])


def _open(directory: Path, split: str):
    """The tiles of a split, as TFDS opens them."""
    try:
        return tfds.builder_from_directory(str(directory)).as_data_source(split=split)
    except Exception as error:  # TFDS has no error of its own for its damaged or missing files
        raise UserError(
            f"TFDS cannot open {directory} ({type(error).__name__}: {error}): prepare it again"
        ) from error


def _index(directory: Path, split: str) -> list[tuple[str, tuple[int, int]]]:
    """Names and sizes of the frames of a split."""
    path = directory / INDEX
    if not path.is_file():
        raise UserError(f"no prepared data set at {directory}: {INDEX} is missing there")
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): prepare the data set again") from error
    if split not in told:
        raise UserError(f"{directory} has no split {split!r}: it has {', '.join(told)}")
    return [(name, tuple(size)) for name, size in told[split]]


def _touched(windows: Grid, rows: tuple[int, int], cols: tuple[int, int]) -> list[int]:
    """The fewest tiles that cover rows and columns."""
    (h, w) = windows.patch
    down, right = _cover(windows.tops, h, rows), _cover(windows.lefts, w, cols)
    return [SIDE * i + j for i in down for j in right]


def _cover(starts: tuple[int, ...], side: int, span: tuple[int, int]) -> list[int]:
    """The tiles along one axis, of which the last may overlap the one before."""
    found, reached = [], span[0]
    while reached < span[1]:
        furthest = max(i for i, start in enumerate(starts) if start <= reached)
        found.append(furthest)
        reached = starts[furthest] + side
    return found


def _overlap(windows: Grid, number: int, rows, cols):
    """Where a tile's pixels lie in the window, and which of its pixels they are."""
    there, here = [], []
    for part, (start, stop) in zip(windows.window(number), (rows, cols), strict=True):
        first, last = max(part.start, start), min(part.stop, stop)
        there.append(slice(first - start, last - start))
        here.append(slice(first - part.start, last - part.start))
    return tuple(there), tuple(here)


def _sample(image, disparity, camera: np.ndarray, baseline: float) -> Sample:
    """The window as a sample."""
    stereo = float(camera[0]) * baseline
    valid = disparity > 0
    depth = np.full(disparity.shape, np.inf, np.float32)
    np.divide(np.float32(stereo), disparity, out=depth, where=valid)
    return Sample(image, depth, valid, camera, stereo)
