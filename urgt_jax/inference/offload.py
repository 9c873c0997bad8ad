"""The pairs of blocks on more patches than a device holds: all others wait in the host's memory.

Nothing is left out. Attention across patches is computed against some patches at a time, and put
together by the sums of exponentials of each part.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from urgt_jax import hardware
from urgt_jax.config import Model
from urgt_jax.models.attention import MASKED, attention, merge_attention, partial_attention
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.pooling import Cells
from urgt_jax.models.refiner import SPECIAL_TOKENS, tokens_per_patch
from urgt_jax.models.registry import build_with_params
from urgt_jax.models.rope import rotary_angles

HELD = 28  # arrays of a patch's tokens that `attend` of `step.stages` holds at its peak, about
SHARE = 0.8  # of the memory that is free, which tokens may take
Tell = Callable[[float], None]  # the share that is done


class Pieces(NamedTuple):
    """A pair of blocks in jitted parts, each on the tokens [P, N, D] of some patches."""

    begin: Callable  # (params, tokens, spots, start) -> tokens and spots with the special ones
    within: Callable  # (params, i, tokens, spots) -> tokens, then queries, keys, values across
    fold: Callable  # (queries, keys, values, bias, so far) -> so far, and these
    finish: Callable  # (params, i, tokens, found) -> tokens after the block across patches


@cache
def pieces(model: Model, pool: int = 1) -> Pieces:
    """The pieces of a model, whose keys and values are pooled over cells of that side."""
    pool = pool if model.cross_patch else 1  # a patch sees all of its own tokens
    cells = Cells(SPECIAL_TOKENS, model.tokens, pool)
    size = model.width // model.num_heads
    block = lambda blocks, i: jax.tree.map(lambda a: a[i], blocks)  # noqa: E731
    joined = lambda x: x.reshape(1, -1, *x.shape[2:])  # noqa: E731

    def begin(params, tokens, spots, start):
        x, spots = build_with_params(model, params).add_special_tokens(
            tokens[None], spots[None], start
        )
        return x[0], spots[0]

    def within(params, i, x, spots):
        network, turn = build_with_params(model, params), rotary_angles(spots, size)
        y = block(network.within_patch, i)(x, turn)
        q, k, v = block(network.across_patches, i).project(y, turn)
        return (y, q, cells.pool(k), cells.pool(v)) if pool > 1 else (y, q, k, v)

    def fold(q, k, v, bias, so_far):
        if not model.cross_patch:
            return attention(q, k, v), None
        return merge_attention(so_far, partial_attention(joined(q), joined(k), joined(v), bias))

    def finish(params, i, y, found):
        found = found.reshape(*y.shape[:2], model.num_heads, size).astype(y.dtype)
        return block(build_with_params(model, params).across_patches, i).finish(y, found)

    return Pieces(*map(jax.jit, (begin, within, fold, finish)))


def attend(
    params: dict,
    model: Model,
    tokens: Float[np.ndarray, "P N D"],
    spots: Float[np.ndarray, "P N 2"],
    resident: int,
    pool: int,
    tell: Tell,
) -> Float[np.ndarray, "K P N 2*D"]:
    """What `attend` of `step.stages` gives, with `resident` patches on the device at a time."""
    piece, count = pieces(model, pool), len(tokens)
    starts = range(0, count, resident)
    chunks = [
        jax.device_get(
            piece.begin(params, _part(tokens, i, resident), _part(spots, i, resident), i)
        )
        for i in starts
    ]
    biases = [_bias(model, pool, min(resident, count - i), resident) for i in starts]
    kept, depth = kept_blocks(model.dpt_layers), max(model.dpt_layers) + 1
    x = chunks[0][0]
    shape = len(kept), len(chunks) * resident, x.shape[1], 2 * x.shape[2]
    layers = np.empty(shape, x.dtype)
    for i in range(depth):
        made = [jax.device_get(piece.within(params, i, *chunk)) for chunk in chunks]
        keys = [(k, v, bias) for (_, _, k, v), bias in zip(made, biases, strict=True)]
        for n, (y, q, _, _) in enumerate(made):
            seen = keys if model.cross_patch else keys[n : n + 1]
            z = jax.device_get(piece.finish(params, i, y, _found(piece, q, seen)))
            chunks[n] = z, chunks[n][1]
            if i in kept:
                here = slice(n * resident, (n + 1) * resident)
                layers[kept.index(i), here] = np.concatenate([y, z], -1)
            tell((i + (n + 1) / len(made)) / depth)
    return layers[:, :count]


def _part(x: np.ndarray, start: int, size: int) -> np.ndarray:
    """Some patches, the last one repeated where there are fewer."""
    return x[np.minimum(np.arange(start, start + size), len(x) - 1)]


def _bias(model: Model, pool: int, real: int, size: int) -> Float[np.ndarray, "M"]:
    """What is added to the scores of keys: the logarithm of their cells' sizes; padding is hid."""
    sizes = Cells(SPECIAL_TOKENS, model.tokens, pool).sizes
    padding = np.full((size - real) * len(sizes), MASKED)
    return np.concatenate([np.tile(np.log(sizes), real), padding], dtype=np.float32)


def _found(piece: Pieces, q: np.ndarray, keys: list[tuple]) -> jax.Array:
    """What the queries find among all keys, of which two parts are on the device at a time."""
    q, ahead = jax.device_put(q), jax.device_put(keys[0])
    rows = q.shape[0] * q.shape[1]
    so_far = (
        jnp.zeros((1, rows, *q.shape[2:]), jnp.float32),
        jnp.full((1, rows, q.shape[2], 1), -jnp.inf, jnp.float32),
    )
    for i in range(len(keys)):
        now, ahead = ahead, jax.device_put(keys[i + 1]) if i + 1 < len(keys) else None
        so_far = jax.block_until_ready(piece.fold(q, *now, so_far))  # or all would be sent ahead
    return so_far[0]


def resident(model: Model, count: int) -> int | None:
    """How many of the patches the device's free memory has room for; None if for all of them."""
    size = HELD * tokens_per_patch(model) * model.width * jnp.dtype(model.dtype).itemsize
    room = int(SHARE * _free() / size)
    return None if count <= room else max(room // 3, 1)  # queries, keys, and the next keys


def _free() -> float:
    """Bytes that are free on the device; the host's where it is the host's."""
    device = jax.local_devices()[0]
    told, chip = device.memory_stats() or {}, hardware.chip_of(device)
    if "bytes_limit" in told:
        return told["bytes_limit"] - told["bytes_in_use"]
    if chip:
        return chip.hbm
    return hardware.free_memory()
