"""Random images with coarse maps, and random weights of a refiner."""

import jax
import numpy as np

from urgt_jax.config import Model
from urgt_jax.models.registry import abstract_params


def image_with_coarse_maps(size: tuple[int, int], seed: int = 0):
    """An image, coarse depth and coarse normals."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    depth = rng.random(size, np.float32)
    normal = rng.random((*size, 3), np.float32) - 0.4
    return image, depth, normal


def random_params(model: Model) -> dict:
    """Weights that change their priors clearly; drawn much faster than initial ones."""
    rng = np.random.default_rng(0)

    def draw(leaf) -> np.ndarray:
        return rng.uniform(-0.3, 0.3, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, abstract_params(model))
