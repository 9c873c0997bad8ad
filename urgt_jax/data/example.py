"""Writes a scene as files: python -m urgt_jax.data.example --seed 0 --size 2160 3840 --out DIR"""

import sys
from pathlib import Path

import numpy as np

from urgt_jax.config import Config, Prior, require
from urgt_jax.data.priors import STRENGTHS, degrade
from urgt_jax.data.scenes import SPLITS, render, sample_scene
from urgt_jax.errors import Parser, exit_status
from urgt_jax.files import folder
from urgt_jax.pictures import SMALLEST, write_image, write_map


def main() -> None:
    """The command line."""
    parser = Parser(
        prog="python -m urgt_jax.data.example",
        description="Renders an analytic scene: picture, coarse maps, true maps.",
    )
    parser.add_argument("--seed", type=int, default=0, help="which scene")
    parser.add_argument("--split", choices=SPLITS, default="test", help="family of scenes")
    parser.add_argument("--degrade", choices=STRENGTHS, help="how much worse than the truth coarse "
        "maps are; else as configs/tiny.py trains")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, default=(2160, 3840), metavar=("H", "W"))
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    told = parser.parse_args()
    require(told.seed >= 0, f"--seed {told.seed} must not be negative")
    require(min(told.size) >= SMALLEST, f"--size {told.size}: sides are at least {SMALLEST}")
    prior = STRENGTHS.get(told.degrade, Prior())
    write(folder(told.out), f"scene{told.seed}", told.seed, told.split, tuple(told.size), prior)


def write(out: Path, name: str, seed: int, split: str, size: tuple[int, int], prior: Prior) -> None:
    """Saves NAME.png, its coarse maps where predict looks for them, and NAME_true_*.npy."""
    view, limit = render(sample_scene(seed, split), *size, workers=2), Config().data.max_depth
    rng = np.random.default_rng([seed, len(split)])
    depth, normal = degrade(view.depth, view.normal, view.valid, prior, rng, limit)
    write_map(out / f"{name}_true_depth.npy", view.depth)
    write_map(out / f"{name}_true_normal.npy", view.normal)
    write_map(out / f"{name}_coarse_depth.npy", depth)
    write_map(out / f"{name}_coarse_normal.npy", normal)
    write_image(out / f"{name}.png", view.image)
    print(f"{out / name}.png: {size[1]} x {size[0]} pixels, with coarse and true maps beside it")


if __name__ == "__main__":
    sys.exit(exit_status(main))
