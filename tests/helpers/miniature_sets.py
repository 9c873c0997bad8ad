"""Data sets of analytic scenes in exactly the form on disk that the real ones have."""

import json
import shutil

import numpy as np
from etils.epath import Path
from PIL import Image

from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.images.files import write_image, write_map

BASELINE = 0.25  # metres
WORLD = "1 0 0 {x} 0 1 0 0 0 0 1 0"


def unreal4k(
    folder: Path, size: tuple[int, int] = (36, 64), frames: int = 3, raw: bool = False
) -> Path:
    """UnrealStereo4K: train and test_in from scene 00000, val from 00001, test_out from 00008."""
    splits = {"train": "00000", "val": "00001", "test_in": "00000", "test_out": "00008"}
    (folder / "splits").mkdir(parents=True)
    for offset, (split, scene) in enumerate(splits.items()):
        lines = []
        for i in range(frames):
            number = f"{10 * offset + i:05}"
            _frame(folder / scene, number, 100 * offset + i, size, raw)
            kinds = ("Image0/{}.png", "Image1/{}.png", "Disp0/{}.npy", "Disp1/{}.npy")
            lines.append(" ".join(f"{scene}/{kind.format(number)}" for kind in kinds))
        (folder / "splits" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def _frame(scene: Path, number: str, seed: int, size: tuple[int, int], raw: bool) -> None:
    view = render(sample_scene(seed, "train"), *size)
    fx, fy, cx, cy = map(float, view.intrinsics)
    disparity = np.where(view.valid, fx * BASELINE / np.maximum(view.depth, 1e-3), 0)
    for kind in ("Image0", "Disp0", "Extrinsics0", "Extrinsics1"):
        (scene / kind).mkdir(parents=True, exist_ok=True)
    if raw:
        view.image[..., ::-1].tofile(scene / "Image0" / f"{number}.raw")
    else:
        opaque = np.full((*size, 1), 255, np.uint8)
        rgba = np.concatenate([view.image, opaque], -1)
        Image.fromarray(rgba).save(scene / "Image0" / f"{number}.png")
    np.save(scene / "Disp0" / f"{number}.npy", disparity.astype(np.float32))
    for side, x in ((0, 1.0), (1, 1.0 - BASELINE)):
        text = f"{fx} 0 {cx} 0 {fy} {cy} 0 0 1\n{WORLD.format(x=x)}\n"
        (scene / f"Extrinsics{side}" / f"{number}.txt").write_text(text)


def measured(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """A folder of pictures with depth and intrinsics, as docs/data-sets.md has it."""
    for number in range(count):
        view = render(sample_scene(number, "test"), *size)
        write_image(folder / f"view{number}.png", view.image)
        write_map(folder / f"view{number}_depth.npy", view.depth)
    intrinsics = {"intrinsics": [float(x) for x in view.intrinsics]}
    (folder / "dataset.json").write_text(json.dumps(intrinsics))
    return folder


def perfect_predictions(photos: Path, folder: Path) -> Path:
    """A folder with the true depth of the photos as predictions."""
    folder.mkdir()
    for file in photos.glob("*_depth.npy"):
        shutil.copy(file, folder)
    return folder
