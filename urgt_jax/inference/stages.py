"""The forward pass as three jitted functions."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax

from urgt_jax.config import Model
from urgt_jax.models.registry import build_with_params


class Stages(NamedTuple):
    """The forward pass in jitted parts, so that few patches need to be held at a time."""

    encode: Callable  # (params, image, depth, normal) -> tokens, every patch on its own
    attend: Callable  # (params, tokens, spots) -> the layers that the heads read
    heads: Callable  # (params, layers) -> offsets, every patch on its own


@cache
def jit_stages(model: Model, pool: int = 1) -> Stages:
    """The stages of a model; `pool` is the side of cells of tokens that patches see of others."""

    def encode(params, image, depth, normal):
        return build_with_params(model, params).encode(image, depth, normal)

    def attend(params, tokens, spots):
        return build_with_params(model, params).attend(tokens, spots, pool=pool)

    def heads(params, layers):
        return build_with_params(model, params).predict_offsets(layers, model.tokens)

    return Stages(jax.jit(encode), jax.jit(attend), jax.jit(heads))
