"""Writes an analytic scene as files: image, true maps and coarse maps."""

import numpy as np
from etils.epath import Path

from urgt_jax.config import Config, Prior
from urgt_jax.data.priors.degrade import degrade
from urgt_jax.data.scenes import DEGRADATION_SEEDS, render, sample_scene
from urgt_jax.images.files import write_image, write_map


def write_scene(
    out: Path, name: str, seed: int, split: str, size: tuple[int, int], prior: Prior
) -> Path:
    """Writes NAME.png with its true and coarse maps, and returns the path of the image.

    The coarse maps have the names that `urgt refine` looks for.
    """
    view = render(sample_scene(seed, split), *size, workers=2)
    rng = np.random.default_rng([seed, DEGRADATION_SEEDS[split]])
    max_depth = Config().data.max_depth
    depth, normal = degrade(
        view.depth, view.normal, view.valid, prior, rng, max_depth, view.intrinsics
    )
    path = out / f"{name}.png"
    write_map(out / f"{name}_true_depth.npy", view.depth)
    write_map(out / f"{name}_true_normal.npy", view.normal)
    write_map(out / f"{name}_coarse_depth.npy", depth)
    write_map(out / f"{name}_coarse_normal.npy", normal)
    write_image(path, view.image)
    return path
