"""The forward pass as three jitted functions."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax

from urgt_jax.config import Model
from urgt_jax.models.precision import in_precision
from urgt_jax.models.registry import build_with_params


class Stages(NamedTuple):
    """The forward pass in three steps. `encode` and `heads` can run on a few patches at a time."""

    encode: Callable  # (params, image, depth, normal) -> tokens
    attend: Callable  # (params, tokens, positions) -> the layers that the DPT heads read
    heads: Callable  # (params, layers) -> offsets


@cache
def jit_stages(model: Model, pool: int = 1) -> Stages:
    """The stages of a model, whose keys and values across patches are pooled over pool x pool."""

    def encode(params, image, depth, normal):
        return build_with_params(model, params).encode(image, depth, normal)

    def attend(params, tokens, positions):
        return build_with_params(model, params).attend(tokens, positions, pool=pool)

    def heads(params, layers):
        return build_with_params(model, params).predict_offsets(layers, model.tokens)

    stages = []
    for stage in (encode, attend, heads):
        stages.append(jax.jit(in_precision(model.dtype, stage)))
    return Stages(*stages)
