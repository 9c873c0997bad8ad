"""How fast blocks of patches are read: urgt prepare unreal4k-benchmark

Makes frames in UnrealStereo4K's own form, prepares them, and reads random M x M blocks from both in
turn: from the prepared tiles, and by decoding the whole PNG and loading the whole .npy.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import SIDE, Tiled
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.images.files import read_image
from urgt_jax.progress import Progress

TARGETS = {1: 10.0, 4: 2.0}  # times as many blocks a second, by M
BASELINE = 0.2  # metres


def make(folder: Path, frames: int, size: tuple[int, int]) -> None:
    """Frames of analytic scenes with the noise of a camera, which PNG must store too."""
    scene, progress = folder / "00000", Progress("making frames", frames)
    for kind in ("Image0", "Disp0", "Extrinsics0", "Extrinsics1"):
        (scene / kind).mkdir(parents=True)
    for i in range(frames):
        view = render(sample_scene(i, "test"), *size, workers=2)
        grain = np.random.default_rng(i).normal(0, 1.5, view.image.shape).round()
        image = np.clip(view.image + grain, 0, 255).astype(np.uint8)
        fx, fy, cx, cy = map(float, view.intrinsics)
        disparity = np.where(view.valid, fx * BASELINE / np.maximum(view.depth, 1e-3), 0)
        Image.fromarray(image).save(scene / "Image0" / f"{i:05}.png", compress_level=3)
        np.save(scene / "Disp0" / f"{i:05}.npy", disparity.astype(np.float32))
        for side in (0, 1):
            text = f"{fx} 0 {cx} 0 {fy} {cy} 0 0 1\n1 0 0 {side * BASELINE} 0 1 0 0 0 0 1 0\n"
            (scene / f"Extrinsics{side}" / f"{i:05}.txt").write_text(text)
        progress.update(i + 1)
    lines = [f"00000/Image0/{i:05}.png\n" for i in range(frames)]
    (folder / "train.txt").write_text("".join(lines))


def whole(folder: Path, number: int, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """A window the usual way: all of the frame is read, and the window cut from it."""
    image = read_image(folder / "00000" / "Image0" / f"{number:05}.png")
    disparity = np.load(folder / "00000" / "Disp0" / f"{number:05}.npy")
    return image[window].copy(), disparity[window].copy()


def measure(source: Path, tiled: Tiled, m: int, repeat: int) -> tuple[float, float]:
    """Seconds for a block of m x m patches, whole frames against tiles, medians of turns."""
    rng, spent = np.random.default_rng(m), []
    for _ in range(repeat):
        number = int(rng.integers(len(tiled)))
        row, col = rng.integers(0, SIDE + 1 - m, 2)
        window = grid.gridmix_block(*tiled.size(number), m, row, col).bounds
        start = time.perf_counter()
        image, _ = whole(source, number, window)
        middle = time.perf_counter()
        sample = tiled.read(number, window)
        spent.append((middle - start, time.perf_counter() - middle))
        assert (sample.image == image).all()
    one, two = np.median(spent, axis=0)
    return float(one), float(two)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmark."""
    add = parser.add_argument
    add("--frames", type=int, default=6, metavar="N", help="frames to make (default: 6)")
    add("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"), help="their size")
    add("--repeat", type=int, default=20, metavar="N", help="blocks of each size to read")


def run(frames: int, size: tuple[int, int], repeat: int) -> None:
    """Makes some frames, prepares them, and prints how many blocks a second are read."""
    if min(frames, repeat, min(size) // 16) < 1:
        raise UserError("--frames and --repeat must be at least 1, --size at least 16 16")
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "tiles"
        make(source, frames, size)
        start = time.perf_counter()
        prepare(source, out)
        seconds = (time.perf_counter() - start) / frames
        png, npy, tiles = (
            sum(file.stat().st_size for file in files) / frames / 1e6
            for files in (source.rglob("*.png"), source.rglob("*.npy"), out.glob("unreal4k-*"))
        )
        print(
            f"a frame of {size[0]} x {size[1]} pixels: PNG {png:.1f} MB and .npy {npy:.1f} MB, "
            f"as tiles {tiles:.1f} MB, prepared in {seconds:.2f} s by one process"
        )
        print(" M  whole frame/s  tiles/s   ratio  target")
        tiled = Tiled(out, "train")
        for m in range(1, SIDE + 1):
            one, two = measure(source, tiled, m, repeat)
            target = f"{TARGETS[m]:6.0f}" if m in TARGETS else "      "
            print(f"{m:2}  {1 / one:13.2f}  {1 / two:7.1f}  {one / two:6.1f}  {target}", flush=True)
