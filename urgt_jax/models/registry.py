"""The kinds of models that a weight file can hold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx

from urgt_jax.config import Config, Model, Vit
from urgt_jax.models import depth_anything, metric3d, refiner
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.vit import VisionTransformer

FileConfig = Config | Vit | DepthAnythingConfig | Metric3DConfig  # stored in a weight file
NetworkConfig = Model | Vit | DepthAnythingConfig | Metric3DConfig  # the shape of a network


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    title: str
    config: type[FileConfig]
    build: Callable[..., nnx.Module]  # (network configuration, seed) -> network


def _build_encoder(config: Vit, seed: int) -> VisionTransformer:
    return VisionTransformer(config, "float32", nnx.Rngs(seed))


FAMILIES: dict[str, Family] = {
    "refiner": Family("URGT", Config, refiner.build),
    "encoder": Family("DINOv2", Vit, _build_encoder),
    "depth_anything": Family("Depth Anything V2", DepthAnythingConfig, depth_anything.build),
    "metric3d": Family("Metric3D v2", Metric3DConfig, metric3d.build),
}


def kind_of(config: FileConfig) -> str:
    """The name of the family that a configuration belongs to."""
    for name, family in FAMILIES.items():
        if isinstance(config, family.config):
            return name
    raise TypeError(f"{type(config).__name__} is not the configuration of a model")


def network_config(config: FileConfig) -> NetworkConfig:
    """The part of a configuration that gives the shape of the network."""
    if isinstance(config, Config):
        return config.model
    return config


def build(network: NetworkConfig, seed: int) -> nnx.Module:
    """A network whose weights are drawn from the seed."""
    kind = "refiner" if isinstance(network, Model) else kind_of(network)
    return FAMILIES[kind].build(network, seed)


@cache
def abstract_params(network: NetworkConfig) -> dict:
    """The shapes and dtypes of a network's parameters, as a tree of jax.ShapeDtypeStruct."""
    _, state = _abstract_network(network)
    return nnx.to_pure_dict(state)


def path_name(path: tuple) -> str:
    """The path of a parameter in a tree as text, such as encoder/blocks/attn/qkv/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_paths(network: NetworkConfig) -> list[str]:
    """The paths of a network's parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(network))
    return [path_name(path) for path, _ in leaves]


def build_with_params(network: NetworkConfig, params: dict) -> nnx.Module:
    """A network with the given parameters, which may be NumPy arrays."""
    graph, state = _abstract_network(network)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    return nnx.merge(graph, state)


def _abstract_network(network: NetworkConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """The structure of a network and its parameters without values."""
    module = nnx.eval_shape(lambda: build(network, 0))
    return nnx.split(module, nnx.Param)
