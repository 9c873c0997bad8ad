"""Every kind of model that a weight file can hold: its configuration, network and names."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from flax import nnx

from urgt_jax.config import Config, Model, Vit
from urgt_jax.models import depth_anything, metric3d, refiner
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.vit import VisionTransformer


class Family(NamedTuple):
    """One kind of model."""

    title: str
    config: type  # what travels in the weight file
    build: Callable[..., nnx.Module]  # (network's configuration, seed) -> network


def _encoder(c: Vit, seed: int) -> VisionTransformer:
    return VisionTransformer(c, "float32", nnx.Rngs(seed))


FAMILIES: dict[str, Family] = {
    "refiner": Family("URGT", Config, refiner.build),
    "encoder": Family("DINOv2", Vit, _encoder),
    "depth_anything": Family("Depth Anything V2", DepthAnythingConfig, depth_anything.build),
    "metric3d": Family("Metric3D v2", Metric3DConfig, metric3d.build),
}


def kind_of(config) -> str:
    """The family of a configuration."""
    return next(name for name, family in FAMILIES.items() if isinstance(config, family.config))


def network_config(config):
    """The part of a configuration that tells the network's shape."""
    return config.model if isinstance(config, Config) else config


def build(network, seed: int) -> nnx.Module:
    """The network of a configuration's `network` part, with weights drawn from the seed."""
    kind = "refiner" if isinstance(network, Model) else kind_of(network)
    return FAMILIES[kind].build(network, seed)


@cache
def abstract_params(network):
    """Any family's network without its weights, and the weights' shapes."""
    graph, state = _abstract(network)
    return graph, nnx.to_pure_dict(state)


def build_with_params(network, params: dict) -> nnx.Module:
    """The network with these weights."""
    graph, state = _abstract(network)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def _abstract(network):
    return nnx.split(nnx.eval_shape(lambda: build(network, 0)), nnx.Param)
