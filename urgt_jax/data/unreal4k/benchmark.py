"""Measures how fast random M x M blocks are read, from whole files and from prepared tiles."""

import pathlib
import tempfile
import time
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from PIL import Image

from urgt_jax.data.samples import Window
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import SIDE, Unreal4k
from urgt_jax.images.files import read_image
from urgt_jax.images.grid import gridmix_block
from urgt_jax.progress import Progress

BASELINE = 0.2  # metres
NOISE = 1.5  # standard deviation, of 255


class Sizes(NamedTuple):
    """Megabytes of a frame, and how long it takes to prepare."""

    png: float
    npy: float
    tiles: float
    seconds: float


class ReadTime(NamedTuple):
    """Median seconds to read a block of M x M patches."""

    m: int
    whole: float  # from the whole PNG and .npy files
    tiles: float


def benchmark(frames: int, size: tuple[int, int], repeat: int) -> tuple[Sizes, list[ReadTime]]:
    """Makes and prepares frames, and reads `repeat` blocks of each M from them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        out = Path(folder) / "tiles"
        make_frames(source, frames, size)
        start = time.perf_counter()
        prepare(source, out)
        seconds = time.perf_counter() - start
        sizes = Sizes(
            png=megabytes(source, "*.png") / frames,
            npy=megabytes(source, "*.npy") / frames,
            tiles=megabytes(out, "unreal4k-*") / frames,
            seconds=seconds / frames,
        )
        tiles = Unreal4k(out, "train")
        times = [measure(source, tiles, m, repeat) for m in range(1, SIDE + 1)]
    return sizes, times


def megabytes(folder: Path, pattern: str) -> float:
    """The size of all files in a folder that match a pattern."""
    return sum(file.stat().st_size for file in pathlib.Path(folder).rglob(pattern)) / 1e6


def make_frames(folder: Path, frames: int, size: tuple[int, int]) -> None:
    """Writes analytic scenes in the form of UnrealStereo4K, with noise that PNG must store too."""
    scene = folder / "00000"
    for kind in ("Image0", "Disp0", "Extrinsics0", "Extrinsics1"):
        (scene / kind).mkdir(parents=True)
    progress = Progress("making frames", frames)
    for i in range(frames):
        view = render(sample_scene(i, "test"), *size, workers=2)
        noise = np.random.default_rng(i).normal(0, NOISE, view.image.shape).round()
        image = np.clip(view.image + noise, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(scene / "Image0" / f"{i:05}.png", compress_level=3)
        fx, fy, cx, cy = [float(number) for number in view.intrinsics]
        disparity = np.where(view.valid, fx * BASELINE / np.maximum(view.depth, 1e-3), 0)
        np.save(scene / "Disp0" / f"{i:05}.npy", disparity.astype(np.float32))
        for side in (0, 1):
            matrix = f"{fx} 0 {cx} 0 {fy} {cy} 0 0 1"
            pose = f"1 0 0 {side * BASELINE} 0 1 0 0 0 0 1 0"
            (scene / f"Extrinsics{side}" / f"{i:05}.txt").write_text(f"{matrix}\n{pose}\n")
        progress.update(i + 1)
    lines = [f"00000/Image0/{i:05}.png\n" for i in range(frames)]
    (folder / "train.txt").write_text("".join(lines))


def measure(source: Path, tiles: Unreal4k, m: int, repeat: int) -> ReadTime:
    """Reads random blocks of m x m patches from whole files and from tiles in turn."""
    rng = np.random.default_rng(m)
    whole_seconds = []
    tile_seconds = []
    for _ in range(repeat):
        number = int(rng.integers(len(tiles)))
        row, column = rng.integers(0, SIDE + 1 - m, 2).tolist()
        window = gridmix_block(*tiles.size(number), m, row, column).bounds
        start = time.perf_counter()
        image, _ = read_whole(source, number, window)
        middle = time.perf_counter()
        sample = tiles.read(number, window)
        end = time.perf_counter()
        whole_seconds.append(middle - start)
        tile_seconds.append(end - middle)
        assert (sample.image == image).all()
    return ReadTime(m, float(np.median(whole_seconds)), float(np.median(tile_seconds)))


def read_whole(folder: Path, number: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """A window of image and disparity, cut from a frame that is read whole."""
    image = read_image(folder / "00000" / "Image0" / f"{number:05}.png")
    disparity = np.load(folder / "00000" / "Disp0" / f"{number:05}.npy")
    return image[window].copy(), disparity[window].copy()
