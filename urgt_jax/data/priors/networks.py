"""The networks that make coarse priors from a bare picture, as functions."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.models import depth_anything, metric3d
from urgt_jax.models.registry import build_with_params
from urgt_jax.weights.weight_file import load_weights

Image = UInt8[np.ndarray, "H W 3"]


@partial(jax.jit, static_argnames="network")
def run_network(params, image, network):
    """Any network on prepared pictures, compiled once for each shape."""
    return build_with_params(network, params)(image)


class DepthNetwork:
    """Depth Anything V2."""

    def __init__(self, params: dict, config: depth_anything.DepthAnythingConfig):
        self.params, self.config = jax.device_put(params), config

    def __call__(self, image: Image, size: int | None = None) -> Float[np.ndarray, "H W"]:
        """Relative disparity in [0, 1]; `size` is what the shorter side is resized to, pixels.

        Pictures of one aspect share a compiled program; nothing is padded.
        """
        small = depth_anything.prepare(image, size or self.config.size)
        found = np.asarray(run_network(self.params, small, self.config))
        found = depth_anything.finish(found, *image.shape[:2])
        low, high = found.min(), found.max()
        return (found - low) / (high - low + np.float32(1e-8))


class NormalNetwork:
    """Metric3D v2."""

    def __init__(self, params: dict, config: metric3d.Metric3DConfig):
        self.params, self.config = jax.device_put(params), config

    def __call__(self, image: Image) -> Float[np.ndarray, "H W 3"]:
        """Normals towards the camera, not of length one; all pictures share one program."""
        small, place = metric3d.prepare(image, self.config.input_size)
        _, _, normal = run_network(self.params, small, self.config)
        return metric3d.finish(np.asarray(normal), place, image.shape[:2])


NETWORKS = {"depth_anything": DepthNetwork, "metric3d": NormalNetwork}


def load(path: str | Path, kind: str):
    """The model of a kind in a weight file."""
    return NETWORKS[kind](*load_weights(path, kind))
