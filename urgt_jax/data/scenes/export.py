"""Writes an analytic scene as files: image, true maps and coarse maps."""

from pathlib import Path

import numpy as np

from urgt_jax.config import Config, Prior
from urgt_jax.data.priors.degrade import degrade
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.images.files import write_image, write_map


def write_scene(
    out: Path, name: str, seed: int, split: str, size: tuple[int, int], prior: Prior
) -> None:
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
