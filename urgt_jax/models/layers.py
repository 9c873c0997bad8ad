"""The transformer block that all models share, and the loop over stacked blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import Offloadable
from jax.extend.core import Primitive
from jaxtyping import Array, Float, Shaped

from urgt_jax.models.attention import ATTENTION, CUDNN_PRIMITIVE, attention
from urgt_jax.models.placement import AttentionFunction, current_placement
from urgt_jax.models.rope import RotaryAngles, apply_rope

Initializer = Callable[..., Array]  # (key, shape, dtype) -> array


def _is_cudnn_attention(primitive: Primitive, *_, **__) -> bool:
    return primitive.name == CUDNN_PRIMITIVE


def _offload_attention(primitive: Primitive, *arrays, **options) -> Any:
    """Keep attention in host memory; a checkpoint policy."""
    if _is_cudnn_attention(primitive):
        return Offloadable(src="device", dst="pinned_host")
    offload_named = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[ATTENTION],
        offload_src="device",
        offload_dst="pinned_host",
    )
    return offload_named(primitive, *arrays, **options)


_keep_attention = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.save_only_these_names(ATTENTION), _is_cudnn_attention
)
# What the backward pass keeps, by the value of model.remat; it computes everything else again.
POLICIES = {
    # Used only where weights are gathered: they are gathered again, and nothing else is repeated.
    "none": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_saveable, _keep_attention
    ),
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "attention": _keep_attention,
    "offload": _offload_attention,
}


def linear(
    inputs: int, outputs: int, dtype: Any, rngs: nnx.Rngs, init: Initializer | None = None
) -> nnx.Linear:
    """A linear layer with bias."""
    if init is None:
        # A uniform draw compiles several times faster than a truncated normal one.
        init = nnx.initializers.lecun_uniform()
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs)


def within_patch_attention(
    q: Float[Array, "B N H D"], k: Float[Array, "B N H D"], v: Float[Array, "B N H D"]
) -> Float[Array, "B N H D"]:
    """Attention among the tokens of one patch, without communication between devices."""
    return current_placement().attend(attention, q, k, v, across=False)


class Norm(nnx.LayerNorm):
    """Layer norm over one axis, computed in float32 and returned in the dtype of the input."""

    def __init__(self, size: int, eps: float, rngs: nnx.Rngs, axis: int = -1):
        super().__init__(
            size,
            epsilon=eps,
            dtype=jnp.float32,
            rngs=rngs,
            reduction_axes=axis,
            feature_axes=axis,
        )

    def __call__(self, x: Float[Array, "*B"]) -> Float[Array, "*B"]:
        return super().__call__(x).astype(x.dtype)


class Attention(nnx.Module):
    """The linear layers of multi-head self-attention, with norms of queries and keys if asked."""

    def __init__(self, width: int, num_heads: int, qk_eps: float | None, dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = linear(width, 3 * width, dtype, rngs)
        self.proj = linear(width, width, dtype, rngs)
        head_size = width // num_heads
        self.q_norm = Norm(head_size, qk_eps, rngs, axis=-2) if qk_eps else None
        self.k_norm = Norm(head_size, qk_eps, rngs, axis=-2) if qk_eps else None

    def project(
        self, x: Float[Array, "B N D"], angles: RotaryAngles | None
    ) -> tuple[Float[Array, "B N H d"], Float[Array, "B N H d"], Float[Array, "B N H d"]]:
        """Queries, keys and values; queries and keys are normed, then rotated."""
        # Tokens come last, and queries and keys stay in one array, until they are complete: a
        # head's 64 numbers would fill only half of a TPU's lanes (docs/log.md, "Tokens last").
        batch, tokens, _ = x.shape
        kernel = self.qkv.kernel[...].astype(x.dtype)
        bias = self.qkv.bias[...].astype(x.dtype)
        qkv = jnp.einsum("ck,bnc->bkn", kernel, x) + bias[:, None]
        qkv = qkv.reshape(batch, 3, self.num_heads, -1, tokens)
        qk = qkv[:, :2]
        v = qkv[:, 2]
        if self.q_norm is not None:
            qk = _norm_each(self.q_norm, self.k_norm, qk)
        if angles is not None:
            qk = apply_rope(qk, angles)
        q = jnp.moveaxis(qk[:, 0], -1, 1)
        k = jnp.moveaxis(qk[:, 1], -1, 1)
        return q, k, jnp.moveaxis(v, -1, 1)

    def join(self, heads: Float[Array, "B N H d"]) -> Float[Array, "B N D"]:
        """The output of all heads, mixed by the last linear layer."""
        batch, tokens, _, _ = heads.shape
        return self.proj(heads.reshape(batch, tokens, -1))


def _norm_each(
    q_norm: Norm, k_norm: Norm, qk: Float[Array, "B 2 H d N"]
) -> Float[Array, "B 2 H d N"]:
    """Queries and keys each normed by their own norm, in one operation."""
    both = jax.tree.map(lambda q, k: jnp.stack([q, k]), q_norm, k_norm)
    return jax.vmap(lambda norm, x: norm(x), in_axes=(0, 1), out_axes=1)(both, qk)


@jax.checkpoint  # only the input is kept for gradients
def gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The exact GELU in float32: bfloat16 would round the argument of erfc."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


class Mlp(nnx.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, width: int, dtype, rngs: nnx.Rngs):
        self.fc1 = linear(width, 4 * width, dtype, rngs)
        self.fc2 = linear(4 * width, width, dtype, rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.fc2(gelu(self.fc1(x)))


def swiglu_hidden(width: int) -> int:
    """The hidden width of DINOv2's SwiGLU: two thirds of the MLP's, to a multiple of 8."""
    return (int(4 * width * 2 / 3) + 7) // 8 * 8


class SwiGlu(nnx.Module):
    """A gated layer and one back, as in DINOv2's giant."""

    def __init__(self, width: int, dtype, rngs: nnx.Rngs):
        hidden = swiglu_hidden(width)
        self.w12 = linear(width, 2 * hidden, dtype, rngs)
        self.w3 = linear(hidden, width, dtype, rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        gate, value = jnp.split(self.w12(x), 2, -1)
        return self.w3(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """Pre-norm attention and MLP, each scaled by a learned LayerScale."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        eps: float,
        qk_norm: bool,
        layer_scale: float,
        dtype,
        rngs: nnx.Rngs,
        ffn: str = "mlp",
    ):
        self.dtype = dtype  # of matrix products; tokens may be float32 all the same
        self.norm1 = Norm(width, eps, rngs)
        self.attn = Attention(width, num_heads, eps if qk_norm else None, dtype, rngs)
        self.norm2 = Norm(width, eps, rngs)
        if ffn == "swiglu":
            self.mlp = SwiGlu(width, dtype, rngs)
        else:
            self.mlp = Mlp(width, dtype, rngs)
        self.scale1 = nnx.Param(jnp.full((width,), layer_scale, jnp.float32))
        self.scale2 = nnx.Param(jnp.full((width,), layer_scale, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "B N D"],
        angles: RotaryAngles | None = None,
        attend: AttentionFunction = within_patch_attention,
    ) -> Float[Array, "B N D"]:
        """The tokens after the block; by default all tokens of a row see one another."""
        q, k, v = self.project(x, angles)
        return self.finish(x, attend(q, k, v))

    def project(
        self, x: Float[Array, "B N D"], angles: RotaryAngles | None
    ) -> tuple[Float[Array, "B N H d"], Float[Array, "B N H d"], Float[Array, "B N H d"]]:
        """Queries, keys and values of the tokens."""
        return self.attn.project(self.norm1(x).astype(self.dtype), angles)

    def finish(
        self, x: Float[Array, "B N D"], heads: Float[Array, "B N H d"]
    ) -> Float[Array, "B N D"]:
        """The tokens after the block, from those before it and the output of attention."""
        x = x + (self.attn.join(heads) * self.scale1[...]).astype(x.dtype)
        hidden = self.norm2(x).astype(self.dtype)
        return x + (self.mlp(hidden) * self.scale2[...]).astype(x.dtype)


def stack_blocks(count: int, rngs: nnx.Rngs, build: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    """`count` modules whose parameters are stacked along a first axis, to be scanned over."""

    @jax.vmap
    @nnx.transform_metadata(in_axes=0, out_axes=0, partition="layers")
    def build_stacked(rngs):
        return build(rngs)

    return build_stacked(rngs.split(count))


def kept_blocks(layers: tuple[int, ...]) -> list[int]:
    """The blocks whose outputs `run_blocks` keeps: in rising order, each once."""
    return sorted(set(layers))


def select_blocks(
    outputs: Shaped[Array, "K ..."], layers: tuple[int, ...]
) -> list[Shaped[Array, "..."]]:
    """The outputs of `run_blocks` for the requested layers, some of them more than once."""
    kept = kept_blocks(layers)
    return [outputs[kept.index(layer)] for layer in layers]


def run_blocks(
    blocks: Any, x: Array, body: Callable, layers: tuple[int, ...], remat: str, dtype: Any
) -> Shaped[Array, "K ..."]:
    """The outputs of body(x, block) -> (x, output) at the blocks `kept_blocks(layers)`.

    One loop runs over all blocks, so that the compiler sees a block only once. The outputs are in
    one array, since separate ones would be copies. `dtype` is that of the blocks' products.
    """
    placement = current_placement()
    kept = kept_blocks(layers)
    depth = kept[-1] + 1  # later blocks are not needed

    def step(x, block):
        # Gathered inside the step: with remat, weights are gathered again for the gradients
        # instead of being kept.
        return body(x, placement.gather_block(block, dtype))

    if remat != "none" or placement.gathers:
        step = jax.checkpoint(step, prevent_cse=False, policy=POLICIES[remat])

    def first_output(x, blocks):
        first_block = jax.tree.map(lambda a: a[0], blocks)
        _, output = step(x, first_block)
        return output

    def run_block(carry, item):
        x, outputs = carry
        block, slot = item
        x, output = step(x, block)
        outputs = jax.lax.dynamic_update_index_in_dim(outputs, output, slot, 0)
        return (x, outputs), None

    blocks = jax.tree.map(lambda a: a[:depth], blocks)
    # Each block writes into the slot of the next kept block, which writes over it.
    slots = np.searchsorted(kept, np.arange(depth))
    output = jax.eval_shape(first_output, x, blocks)
    outputs = jnp.zeros((len(kept), *output.shape), output.dtype)
    (_, outputs), _ = jax.lax.scan(run_block, (x, outputs), (blocks, slots))
    return outputs
