"""Attention over more patches than the device holds: the other patches wait in host memory.

The result is not an approximation. A patch attends to some patches at a time, and the partial
results are merged by their sums of exponentials.
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
from urgt_jax.models.attention import (
    MASKED,
    PartialAttention,
    attention,
    merge_attention,
    partial_attention,
)
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.pooling import Cells
from urgt_jax.models.precision import in_precision
from urgt_jax.models.refiner import SPECIAL_TOKENS, tokens_per_patch
from urgt_jax.models.registry import build_with_params
from urgt_jax.models.rope import rotary_angles

# Arrays of a patch's tokens that the `attend` stage holds at its peak, about.
ARRAYS_PER_PATCH = 28
MEMORY_SHARE = 0.8  # share of the free memory that tokens may take

ReportShare = Callable[[float], None]  # takes the share of the work that is done
Keys = tuple[np.ndarray, np.ndarray, np.ndarray]  # keys, values, bias of some patches


class PairSteps(NamedTuple):
    """The steps of a pair of blocks, jitted; each works on the tokens [P, N, D] of some patches."""

    # (params, tokens, positions, first patch) -> tokens and positions with the special tokens
    add_special_tokens: Callable
    # (params, pair, tokens, positions) -> tokens, then queries, keys and values of the next block
    within: Callable
    # (queries, keys, values, bias, attention so far) -> attention to these keys too
    attend_more: Callable
    # (params, pair, tokens, attended values) -> tokens after the block across patches
    across: Callable


@cache
def pair_steps(model: Model, pool: int = 1) -> PairSteps:
    """The steps of a model, whose keys and values across patches are pooled over pool x pool."""
    if not model.cross_patch:
        pool = 1  # a patch sees all of its own tokens
    cells = Cells(SPECIAL_TOKENS, model.tokens, pool)
    head_width = model.width // model.num_heads
    dtype = model.dtypes.products

    def select(blocks, i):
        return jax.tree.map(lambda stacked: stacked[i], blocks)

    def as_one_row(x):
        return x.reshape(1, -1, *x.shape[2:])

    def add_special_tokens(params, tokens, positions, first):
        network = build_with_params(model, params)
        tokens, positions = network.add_special_tokens(tokens[None], positions[None], first)
        return tokens[0], positions[0]

    def within(params, i, tokens, positions):
        network = build_with_params(model, params)
        angles = rotary_angles(positions, head_width)
        tokens = select(network.within_patch, i)(tokens, angles)
        q, k, v = select(network.across_patches, i).project(tokens, angles)
        if pool > 1:
            k = cells.pool(k)
            v = cells.pool(v)
        return tokens, q, k, v

    def attend_more(q, k, v, bias, so_far):
        if not model.cross_patch:
            return attention(q, k, v), None
        more = partial_attention(as_one_row(q), as_one_row(k), as_one_row(v), bias)
        return merge_attention(so_far, more)

    def across(params, i, tokens, attended):
        network = build_with_params(model, params)
        attended = attended.reshape(*tokens.shape[:2], model.num_heads, head_width)
        return select(network.across_patches, i).finish(tokens, attended.astype(dtype))

    steps = []
    for step in (add_special_tokens, within, attend_more, across):
        steps.append(jax.jit(in_precision(model.dtype, step)))
    return PairSteps(*steps)


def attend(
    params: dict,
    model: Model,
    tokens: Float[np.ndarray, "P N D"],
    positions: Float[np.ndarray, "P N 2"],
    resident: int,
    pool: int,
    report: ReportShare,
) -> Float[np.ndarray, "K P M 2*D"]:
    """The output of the `attend` stage, computed with `resident` patches on the device at a time.

    M counts the special tokens too.
    """
    steps = pair_steps(model, pool)
    count = len(tokens)
    chunks = []  # tokens and positions of `resident` patches each, on the host
    biases = []
    for first in range(0, count, resident):
        some_tokens = _take_patches(tokens, first, resident)
        some_positions = _take_patches(positions, first, resident)
        chunk = steps.add_special_tokens(params, some_tokens, some_positions, first)
        chunks.append(jax.device_get(chunk))
        biases.append(_key_bias(model, pool, min(resident, count - first), resident))

    kept = kept_blocks(model.dpt_layers)
    depth = max(model.dpt_layers) + 1
    _, tokens_each, width = chunks[0][0].shape
    shape = (len(kept), len(chunks) * resident, tokens_each, 2 * width)
    layers = np.empty(shape, jnp.dtype(model.dtypes.heads))
    for i in range(depth):
        within = []  # the output of the frame block
        queries = []
        keys = []
        for chunk, bias in zip(chunks, biases, strict=True):
            output, q, k, v = jax.device_get(steps.within(params, i, *chunk))
            within.append(output)
            queries.append(q)
            keys.append((k, v, bias))
        for n in range(len(chunks)):
            visible = keys if model.cross_patch else [keys[n]]
            attended = _attend_to(steps, queries[n], visible)
            across = jax.device_get(steps.across(params, i, within[n], attended))
            chunks[n] = across, chunks[n][1]
            if i in kept:
                patches = slice(n * resident, (n + 1) * resident)
                layers[kept.index(i), patches] = np.concatenate([within[n], across], -1)
            report((i + (n + 1) / len(chunks)) / depth)
    return layers[:, :count]


def _take_patches(x: np.ndarray, first: int, size: int) -> np.ndarray:
    """`size` patches from the first one on; the last patch is repeated where there are fewer."""
    return x[np.minimum(np.arange(first, first + size), len(x) - 1)]


def _key_bias(model: Model, pool: int, patches: int, size: int) -> Float[np.ndarray, "M"]:
    """The bias of the attention scores of `size` patches' keys.

    It is the logarithm of the number of tokens that a pooled key stands for, and hides the keys of
    repeated patches.
    """
    tokens_per_key = Cells(SPECIAL_TOKENS, model.tokens, pool).sizes
    real = np.tile(np.log(tokens_per_key), patches)
    padding = np.full((size - patches) * len(tokens_per_key), MASKED)
    return np.concatenate([real, padding], dtype=np.float32)


def _attend_to(steps: PairSteps, q: np.ndarray, keys: list[Keys]) -> jax.Array:
    """Attention of the queries to all keys; two chunks of keys are on the device at a time."""
    q = jax.device_put(q)
    patches, tokens, heads, head_width = q.shape
    rows = patches * tokens
    so_far = PartialAttention(
        jnp.zeros((1, rows, heads, head_width), jnp.float32),
        jnp.full((1, rows, heads, 1), -jnp.inf, jnp.float32),
    )
    upcoming = jax.device_put(keys[0])
    for i in range(len(keys)):
        current = upcoming
        if i + 1 < len(keys):
            upcoming = jax.device_put(keys[i + 1])  # copied while the device works on the current
        # Without waiting here, all chunks would be sent to the device ahead of time.
        so_far = jax.block_until_ready(steps.attend_more(q, *current, so_far))
    return so_far[0]


def patches_that_fit(model: Model, count: int) -> int | None:
    """How many patches fit into the device's free memory; None if all `count` of them do."""
    products, residual, heads = (jnp.dtype(dtype).itemsize for dtype in model.dtypes)
    arrays = ARRAYS_PER_PATCH * products
    # Of these, a pair's two outputs are in the dtype of the residual, and the layers for the DPT
    # heads in theirs.
    arrays += 2 * (residual - products)
    arrays += 2 * len(kept_blocks(model.dpt_layers)) * (heads - products)
    bytes_per_patch = arrays * tokens_per_patch(model) * model.width
    fitting = int(MEMORY_SHARE * free_device_memory() / bytes_per_patch)
    if count <= fitting:
        return None
    return max(fitting // 3, 1)  # queries, keys, and the next keys


def free_device_memory() -> float:
    """Free bytes on the first device, or of the host if the device shares its memory."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    chip = hardware.chip_of(device)
    if chip:
        return chip.hbm
    return hardware.free_memory()
