"""The refiner as a pure function of its parameters and a batch of patches."""

from typing import NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from urgt_jax.config import Model
from urgt_jax.images.grid import token_positions
from urgt_jax.models.placement import current_placement
from urgt_jax.models.precision import in_precision
from urgt_jax.models.refiner import token_grid
from urgt_jax.models.registry import build_with_params


class Batch(TypedDict):
    """Patches of B images, P of each; `urgt_jax.patchify` makes one. Other keys are ignored."""

    image: UInt8[Array, "B P H W 3"] | Float[Array, "B P H W 3"]  # bytes, or floats in [0, 1]
    coarse_depth: Float[Array, "B P H W"]
    coarse_normal: Float[Array, "B P H W 3"]
    origins: Float[Array, "B P 2"]  # row and column in the image where a patch starts, tokens
    # Only where the patches of several images share a row: the image of each patch, from 0.
    owner: NotRequired[Int[Array, "B P"]]


class Maps(TypedDict):
    """Refined maps of all patches; a confidence is missing where the model does not predict it."""

    depth: Float[Array, "B P H W"]  # in the coarse map's unit
    normal: Float[Array, "B P H W 3"]  # not normalised
    depth_confidence: NotRequired[Float[Array, "B P H W"]]  # 1 and above
    normal_confidence: NotRequired[Float[Array, "B P H W"]]  # 1 and above
    # Only on request: the tokens of the L layers that the DPT heads read, h x w in a patch.
    features: NotRequired[Float[Array, "B P L h w C"]]


def apply(params: dict, model: Model, batch: Batch, features: bool = False) -> Maps:
    """Refine the coarse maps of all patches; works under jit, grad, vmap, shard_map and jax.export.

    A map that the model has no output for is returned as it came. With `features` the maps also
    have `features` [B, P, L, h, w, C]: what frame and global attention made of each patch, in the L
    layers of `model.dpt_layers`. `model` and `features` are static: pass their positions to jit as
    `static_argnums`.
    """
    return in_precision(model.dtype, _apply)(params, model, batch, features)


def _apply(params: dict, model: Model, batch: Batch, features: bool) -> Maps:
    network = build_with_params(model, params)
    depth = batch["coarse_depth"]
    normal = batch["coarse_normal"]
    patches = depth.shape[1]
    positions = token_positions(_pad(batch["origins"]), model.tokens, model.tokens)
    image = _pad(batch["image"])
    layers = network.layers(
        image, _pad(depth), _pad(normal), positions, patches, batch.get("owner")
    )
    with jax.named_scope("heads"):
        offsets = network.predict_offsets(layers, token_grid(image))
    offsets = jax.tree.map(lambda x: x[:, :patches], offsets)
    maps: Maps = {"depth": depth, "normal": normal}
    if "depth" in offsets:
        maps["depth"] = depth + offsets["depth"].value[..., 0]
        maps["depth_confidence"] = offsets["depth"].confidence
    if "normal" in offsets:
        maps["normal"] = normal + offsets["normal"].value
        maps["normal_confidence"] = offsets["normal"].confidence
    if features:
        maps["features"] = network.features(layers, token_grid(image))[:, :patches]
    return maps


def _pad(x: Array | np.ndarray) -> Array:
    """[B, P, ...] with the last patch repeated until the devices can share the patches evenly."""
    x = jnp.asarray(x)
    placement = current_placement()
    missing = placement.padded_count(x.shape[1]) - x.shape[1]
    if missing:
        widths = [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, widths, mode="edge")
    return placement.shard_tokens(x)
