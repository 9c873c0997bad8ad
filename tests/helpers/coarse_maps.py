"""A small data set in memory, and `urgt priors` run on it."""

import numpy as np
import pytest
from etils.epath import Path
from helpers.command import call

from urgt_jax.commands import priors as priors_command
from urgt_jax.data.samples import WHOLE, Sample
from urgt_jax.errors import UserError

SIZES = [(41, 66), (44, 66), (41, 66)]  # Depth Anything's input is (28, 42) for all of them
MAX_DEPTH = 6.0  # metres; some of the ground truth is beyond


class RandomImages:
    """Three random images of two sizes; those in `broken` or `unsized` cannot be read."""

    def __init__(self, broken=(), unsized=()):
        self.broken = broken
        self.unsized = unsized

    def __len__(self):
        return len(SIZES)

    def name(self, index):
        return f"image{index}"

    def size(self, index):
        if index in self.unsized:
            raise UserError(f"{self.name(index)}.png is empty")
        return SIZES[index]

    def read(self, index, window=WHOLE):
        if index in self.broken:
            raise UserError(f"{self.name(index)}.png is damaged")
        rng = np.random.default_rng(index)
        height, width = SIZES[index]
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        depth = rng.uniform(1, 8, (height, width)).astype(np.float32)
        valid = rng.random((height, width)) < 0.8
        intrinsics = np.array([50, 50, width / 2, height / 2], np.float32)
        return Sample(image[window], depth[window], valid[window], intrinsics)


def run_priors(options: dict, out: Path, *more, source=None) -> None:
    """Runs `urgt priors` on RandomImages or another source; the maps are written to `out`/all."""
    arguments = ["--data", "folder", ".", "--out", out, "--max-depth", MAX_DEPTH]
    for name, value in options.items():
        arguments += [name, value]
    source = source or RandomImages()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors_command, "open_source", lambda name, path, split: source)
        call(priors_command.main, *arguments, *more)


def contents(out: Path) -> dict[str, bytes]:
    """The contents of the files in `out`/all, by name."""
    return {path.name: path.read_bytes() for path in sorted((out / "all").iterdir())}


def write_maps(folder: Path, change=lambda name, values: values, sizes=SIZES) -> dict[str, Path]:
    """Writes random maps, passed through `change`, and returns the options that use them."""
    rng = np.random.default_rng(5)
    (folder / "depth").mkdir(parents=True)
    (folder / "normal").mkdir()
    for index, size in enumerate(sizes):
        depth = rng.uniform(1, 5, size).astype(np.float32)
        normal = rng.standard_normal((*size, 3)).astype(np.float32)
        np.save(folder / "depth" / f"image{index}.npy", change(f"depth{index}", depth))
        np.save(folder / "normal" / f"image{index}_normal.npy", change(f"normal{index}", normal))
    return {"--depth-maps": folder / "depth", "--normal-maps": folder / "normal"}
