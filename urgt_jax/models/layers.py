"""The transformer block that all models share, and the loop over stacked blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from urgt_jax.models.attention import ATTENTION, attention
from urgt_jax.models.placement import AttentionFunction, current_placement
from urgt_jax.models.rope import RotaryAngles, apply_rope


def linear(size: int, out: int, dtype, rngs: nnx.Rngs, init=None) -> nnx.Linear:
    """A linear map with bias."""
    # A uniform draw compiles several times faster than a truncated normal one.
    init = init or nnx.initializers.lecun_uniform()
    return nnx.Linear(size, out, kernel_init=init, dtype=dtype, rngs=rngs)


def within_patch_attention(
    q: Float[Array, "B N H D"], k: Float[Array, "B N H D"], v: Float[Array, "B N H D"]
) -> Float[Array, "B N H D"]:
    """Attention among the tokens of one patch, which every device does for its own."""
    return current_placement().attend(attention, q, k, v, across=False)


class Norm(nnx.LayerNorm):
    """Layer norm over one axis in float32, given back in the dtype it came in."""

    def __init__(self, size: int, eps: float, rngs: nnx.Rngs, axis: int = -1):
        axes = {"reduction_axes": axis, "feature_axes": axis}
        super().__init__(size, epsilon=eps, dtype=jnp.float32, rngs=rngs, **axes)

    def __call__(self, x: Float[Array, "*B"]) -> Float[Array, "*B"]:
        return super().__call__(x).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention, with normed and rotated queries and keys where asked."""

    def __init__(self, width: int, heads: int, eps: float | None, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = linear(width, 3 * width, dtype, rngs)
        self.proj = linear(width, width, dtype, rngs)
        self.q_norm = Norm(width // heads, eps, rngs, -2) if eps else None
        self.k_norm = Norm(width // heads, eps, rngs, -2) if eps else None

    def project(
        self, x: Float[Array, "B N D"], turn: RotaryAngles | None
    ) -> list[Float[Array, "B N H d"]]:
        """Queries, keys and values."""
        # Until they are ready a head's numbers come before the tokens, and queries and keys go
        # together: a head's 64 numbers would fill half a TPU's lanes (docs/log.md).
        b, n, _ = x.shape
        kernel, bias = (w[...].astype(x.dtype) for w in (self.qkv.kernel, self.qkv.bias))
        found = jnp.einsum("ck,bnc->bkn", kernel, x) + bias[:, None]
        found = found.reshape(b, 3, self.heads, -1, n)
        qk, v = found[:, :2], found[:, 2]
        if self.q_norm is not None:
            norms = jax.tree.map(lambda *each: jnp.stack(each), self.q_norm, self.k_norm)
            qk = jax.vmap(lambda norm, x: norm(x), (0, 1), 1)(norms, qk)
        if turn is not None:
            qk = apply_rope(qk, turn)
        return [jnp.moveaxis(x, -1, 1) for x in (qk[:, 0], qk[:, 1], v)]

    def join(self, heads: Float[Array, "B N H d"]) -> Float[Array, "B N D"]:
        """What all heads have found."""
        return self.proj(heads.reshape(*heads.shape[:2], -1))


@jax.checkpoint  # for gradients only what it is given is kept
def gelu(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The exact GELU in float32: bfloat16 would round what erfc takes, and a GPU store that too."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


class Mlp(nnx.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, width: int, dtype, rngs: nnx.Rngs):
        self.fc1 = linear(width, 4 * width, dtype, rngs)
        self.fc2 = linear(4 * width, width, dtype, rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return self.fc2(gelu(self.fc1(x)))


class SwiGlu(nnx.Module):
    """A gated layer and one back, DINOv2's giant's."""

    def __init__(self, width: int, dtype, rngs: nnx.Rngs):
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12 = linear(width, 2 * hidden, dtype, rngs)
        self.w3 = linear(hidden, width, dtype, rngs)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        gate, value = jnp.split(self.w12(x), 2, -1)
        return self.w3(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """Pre-norm attention and MLP, each scaled by a learned LayerScale."""

    def __init__(
        self, width: int, heads: int, *, ffn: str = "mlp", eps: float, qk_norm: bool,
        scale: float, dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.norm1 = Norm(width, eps, rngs)
        self.attn = Attention(width, heads, eps if qk_norm else None, dtype, rngs)
        self.norm2 = Norm(width, eps, rngs)
        self.mlp = {"mlp": Mlp, "swiglu": SwiGlu}[ffn](width, dtype, rngs)
        self.scale1 = nnx.Param(jnp.full((width,), scale, jnp.float32))
        self.scale2 = nnx.Param(jnp.full((width,), scale, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "B N D"],
        turn: RotaryAngles | None = None,
        attend: AttentionFunction | None = None,
    ) -> Float[Array, "B N D"]:
        """The tokens after the block; without `attend` all of a row see one another."""
        return self.finish(x, (attend or within_patch_attention)(*self.project(x, turn)))

    def project(
        self, x: Float[Array, "B N D"], turn: RotaryAngles | None
    ) -> list[Float[Array, "B N H d"]]:
        """Queries, keys and values of tokens."""
        return self.attn.project(self.norm1(x), turn)

    def finish(
        self, x: Float[Array, "B N D"], found: Float[Array, "B N H d"]
    ) -> Float[Array, "B N D"]:
        """The tokens after the block, from those before and what attention found."""
        x = x + (self.attn.join(found) * self.scale1[...]).astype(x.dtype)
        return x + (self.mlp(self.norm2(x)) * self.scale2[...]).astype(x.dtype)


def stack_blocks(count: int, rngs: nnx.Rngs, make) -> nnx.Module:
    """`count` modules whose parameters are stacked on a first axis, to be scanned over."""

    @jax.vmap
    @nnx.transform_metadata(in_axes=0, out_axes=0, partition="layers")
    def build(rngs):
        return make(rngs)

    return build(rngs.split(count))


# What the backward pass computes again, by the names in the configuration.
POLICIES = {
    # Where weights are gathered: all products and attention are kept, and they gathered again.
    "none": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENTION),
    ),
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[ATTENTION],
        offload_src="device", offload_dst="pinned_host",
    ),
}  # fmt: skip


def kept_blocks(which: tuple[int, ...]) -> list[int]:
    """The blocks whose outputs `run` keeps, in rising order and each once."""
    return sorted(set(which))


def select_blocks(
    outs: Shaped[Array, "K ..."], which: tuple[int, ...]
) -> list[Shaped[Array, "..."]]:
    """The outputs of `run` in the order that was asked for, some of them more than once."""
    kept = kept_blocks(which)
    return [outs[kept.index(i)] for i in which]


def run_blocks(blocks, x, body, which: tuple[int, ...], remat: str) -> Shaped[Array, "K ..."]:
    """What body(x, block) -> (x, out) puts out at some of the stacked blocks, counted from 0.

    They are in rising order, each once, and in one array, since apart they would be copies. One
    loop over all blocks, so that the compiler sees a block once, whatever is kept.
    """
    place, kept = current_placement(), kept_blocks(which)
    # Weights that are gathered for a turn are gathered again for its gradients, never kept.
    step = lambda x, block: body(x, place.gather_block(block, x.dtype))  # noqa: E731
    if remat != "none" or place.gathers:
        step = jax.checkpoint(step, prevent_cse=False, policy=POLICIES[remat])
    # A block writes where the next one that is kept will, so that only those stay.
    slots = np.searchsorted(kept, np.arange(kept[-1] + 1))
    blocks = jax.tree.map(lambda a: a[: kept[-1] + 1], blocks)
    one = jax.eval_shape(lambda x: step(x, jax.tree.map(lambda a: a[0], blocks))[1], x)

    def go_on(carry, item):
        x, outs = carry
        block, slot = item
        x, out = step(x, block)
        return (x, jax.lax.dynamic_update_index_in_dim(outs, out, slot, 0)), None

    start = x, jnp.zeros((len(kept), *one.shape), one.dtype)
    (_, outs), _ = jax.lax.scan(go_on, start, (blocks, slots))
    return outs
