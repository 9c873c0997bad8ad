"""Networks with the weights of golden files, which arrays of the released PyTorch code go with.

That code ran on a CPU in float32 (torch 2.13) with weights drawn from a seed (seeded_weights.py).
Its own rounding, against float64, is about 1e-5.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import seeded_weights

from urgt_jax.config import TOKEN_SIZE
from urgt_jax.images import grid
from urgt_jax.models import registry
from urgt_jax.weights import detect, torch_names
from urgt_jax.weights.weight_file import flatten_params

assert_close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)


class Shape(NamedTuple):
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]


@functools.cache
def golden(name: str):
    """The arrays of a golden file."""
    return np.load(seeded_weights.GOLDEN / f"{name}.npz")


def channels_last(x: np.ndarray) -> np.ndarray:
    """[..., C, H, W] as [..., H, W, C]."""
    return np.moveaxis(x, -3, -1)


def load_official(build, rules: list, official: dict[str, np.ndarray]) -> nnx.Module:
    """The network that `build` makes, with official weights; parameters without a rule are 0."""
    graph, state = nnx.split(nnx.eval_shape(build), nnx.Param)
    tree = nnx.to_pure_dict(state)
    params = {name: np.zeros(x.shape, np.float32) for name, x in flatten_params(tree).items()}
    for rule in rules:
        shape = params[rule.ours].shape
        params[rule.ours] = torch_names.gather(rule, shape, official.__getitem__)
    leaves = [jnp.asarray(x) for x in params.values()]
    nnx.replace_by_pure_dict(state, jax.tree.unflatten(jax.tree.structure(tree), leaves))
    return nnx.merge(graph, state)


@functools.cache
def load_network(name: str) -> tuple[nnx.Module, registry.FileConfig]:
    """The network of a golden file and its configuration, inferred as `urgt convert` does it."""
    official = seeded_weights.state(golden(name))
    shapes = {key: Shape(x.shape) for key, x in official.items()}
    kind, tensors, _ = detect.detect_family(shapes, name)
    user_config = detect.UserConfig(seeded_weights.settings(golden(name)), name)
    config = detect.INFER_CONFIG[kind](tensors, user_config)
    network = registry.network_config(config)
    rules = torch_names.RULES[kind](config)
    return load_official(lambda: registry.build(network, 0), rules, official), config


def refiner_inputs(name: str, case: str) -> tuple:
    """Image, coarse depth, coarse normals and token positions of a case of a golden file."""
    arrays = golden(name)
    image = channels_last(arrays[f"{case}/in/images"])
    depth = arrays[f"{case}/in/depth_prior"][:, :, 0]
    normal = channels_last(arrays[f"{case}/in/normal_prior"])[None]
    _, patches, height, width, _ = image.shape
    side = round(patches**0.5)
    windows = grid.cover_image(side * height, side * width, side, side)
    tokens = height // TOKEN_SIZE, width // TOKEN_SIZE
    positions = grid.token_positions(jnp.asarray(windows.origins), windows.patch, tokens)[None]
    return jnp.asarray(image), jnp.asarray(depth), jnp.asarray(normal), positions
