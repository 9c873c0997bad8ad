"""URGT: patches of a picture as views of one transformer, which predicts offsets to its priors."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.config import TOKEN_SIZE, Model
from urgt_jax.models.attention import attention, packed_attention
from urgt_jax.models.dpt import DETAIL, Head
from urgt_jax.models.layers import (
    Block,
    run_blocks,
    select_blocks,
    stack_blocks,
    within_patch_attention,
)
from urgt_jax.models.placement import AttentionFunction, current_placement
from urgt_jax.models.pooling import Cells
from urgt_jax.models.rope import rotary_angles
from urgt_jax.models.vit import VisionTransformer

EPS = 1e-5
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, of pictures in [0, 1]
STD = np.array([0.229, 0.224, 0.225], np.float32)
REGISTERS = 4
SPECIAL_TOKENS = 1 + REGISTERS  # camera token and registers of every patch
CHANNELS = {"depth": 1, "normal": 3}  # of what each head predicts, beside its confidence
HEAD_PIXELS = 8 * 518 * 518  # pixels of patches that a head works on at a time, to bound memory


def tokens_per_patch(c: Model) -> int:
    """Tokens of a patch, camera token and registers included."""
    rows, cols = c.tokens
    return SPECIAL_TOKENS + rows * cols


class Offsets(NamedTuple):
    """What a head adds to its prior, and how sure it is (1 and above)."""

    value: Float[Array, "B P H W C"]
    confidence: Float[Array, "B P H W"]


class URGT(nnx.Module):
    """Depth and normal offsets of the patches of pictures."""

    def __init__(self, c: Model, rngs: nnx.Rngs):
        self.config = c
        dtype = jnp.dtype(c.dtype)
        small = nnx.initializers.normal(0.02)
        self.encoder = VisionTransformer(c.encoder, dtype, rngs, priors=True, remat=c.remat)
        # One set of special tokens for the first patch, one for all others.
        self.camera = nnx.Param(small(rngs.params(), (2, 1, c.width)))
        self.registers = nnx.Param(small(rngs.params(), (2, REGISTERS, c.width)))

        def make(r):
            return Block(
                c.width,
                c.num_heads,
                eps=EPS,
                qk_norm=True,
                scale=c.layer_scale,
                dtype=dtype,
                rngs=r,
            )

        self.within_patch = stack_blocks(c.depth, rngs, make)
        self.across_patches = stack_blocks(c.depth, rngs, make)
        self.depth_head = Head(c, CHANNELS["depth"], rngs) if "depth" in c.outputs else None
        self.normal_head = Head(c, CHANNELS["normal"], rngs) if "normal" in c.outputs else None

    def __call__(
        self,
        image: Float[Array, "B P H W 3"],
        depth: Float[Array, "B P H W"],
        normal: Float[Array, "B P H W 3"],
        spots: Float[Array, "B P N 2"],
        count: int | None = None,
        owner: Int[Array, "B P"] | None = None,
    ) -> dict[str, Offsets]:
        """Offsets of all patches; those from `count` on fill up a mesh, and nobody sees them.

        Patches of several images in one row see those of their own `owner`, counted from 0.
        """
        layers = self.attend(self.encode(image, depth, normal), spots, count, owner=owner)
        return self.predict_offsets(
            layers, (image.shape[2] // TOKEN_SIZE, image.shape[3] // TOKEN_SIZE)
        )

    def encode(
        self,
        image: Float[Array, "B P H W 3"],
        depth: Float[Array, "B P H W"],
        normal: Float[Array, "B P H W 3"],
    ) -> Float[Array, "B P N D"]:
        """Tokens of every patch on its own."""
        b, p = image.shape[:2]
        image = image.astype(jnp.float32) / (255.0 if image.dtype == jnp.uint8 else 1.0)
        flat = lambda x: x.reshape(b * p, *x.shape[2:])  # noqa: E731
        tokens = self.encoder(flat((image - MEAN) / STD), flat(depth), flat(normal))
        return tokens.reshape(b, p, *tokens.shape[1:])

    def predict_offsets(
        self, layers: Float[Array, "K B P N C"], tokens: tuple[int, int]
    ) -> dict[str, Offsets]:
        """Offsets of every patch on its own, from the layers that `attend` gives."""
        # Here and not where they are made, since all patches' layers would be in memory twice.
        layers = [
            layer[:, :, SPECIAL_TOKENS:] for layer in select_blocks(layers, self.config.dpt_layers)
        ]
        heads = {"depth": self.depth_head, "normal": self.normal_head}
        run_head = partial(_run_head, rows_cols=tokens, remat=self.config.remat != "none")
        return {
            name: current_placement().map_patches(run_head, head, layers)
            for name, head in heads.items()
            if head is not None
        }

    def attend(
        self,
        tokens: Float[Array, "B P N D"],
        spots: Float[Array, "B P N 2"],
        count: int | None = None,
        pool: int = 1,
        owner: Int[Array, "B P"] | None = None,
    ) -> Float[Array, "K B P N 2*D"]:
        """Tokens, special ones too, after the pairs of blocks that the heads read, side by side.

        With `pool` above 1 attention across patches is approximate: to cells of so many tokens a
        side.
        """
        x, spots = self.add_special_tokens(tokens, spots, owner=owner)
        kernel = self._kernel(count or x.shape[1], x.shape[2], pool)
        return self._pairs(current_placement().shard_tokens(x), spots, kernel, owner)

    def add_special_tokens(
        self,
        tokens: Float[Array, "B P N D"],
        spots: Float[Array, "B P N 2"],
        start: int = 0,
        owner: Int[Array, "B P"] | None = None,
    ) -> tuple[Float[Array, "B P N+5 D"], Float[Array, "B P N+5 2"]]:
        """Tokens and spots with the special ones; patches are counted from `start`."""
        b, p, *_ = tokens.shape
        first = start + np.arange(p) == 0 if owner is None else _first_of(owner)
        x = jnp.concatenate([self._special(b, first, tokens.dtype), tokens], 2)
        if self.config.rope == "local":
            spots = jnp.broadcast_to(spots[:, :1] - spots[:, :1, :1] + 1.0, spots.shape)
        return x, jnp.pad(spots, ((0, 0), (0, 0), (SPECIAL_TOKENS, 0), (0, 0)))

    def _special(self, b: int, first: Bool[Array, "*B P"], dtype) -> Float[Array, "B P 5 D"]:
        """Camera token and registers of every patch; the first patch of an image has its own."""
        both = jnp.concatenate([self.camera[...], self.registers[...]], 1)
        each = jnp.where(first[..., None, None], both[0], both[1])
        return jnp.broadcast_to(each, (b, *each.shape[-3:])).astype(dtype)

    def _kernel(self, count: int, tokens: int, pool: int) -> AttentionFunction | None:
        """Attention across patches, which sees the first `count`; none where there is none."""
        if not self.config.cross_patch:
            return None
        if pool > 1:
            cells = Cells(SPECIAL_TOKENS, self.config.tokens, pool)
            return partial(cells.attend, patches=count)
        keys = count * tokens

        def kernel(q, k, v, *owners):
            return (
                packed_attention(q, k, v, *owners)
                if owners
                else attention(q, k[:, :keys], v[:, :keys])
            )

        return kernel

    def _pairs(
        self, x: Float[Array, "B P N D"], spots, kernel: AttentionFunction | None, owner=None
    ) -> Float[Array, "K B P N 2*D"]:
        """Both blocks' outputs side by side, of the pairs that the heads read."""
        # All tokens in one row, also within patches: a block's end and the next one's start lie
        # alike then, and nothing is copied in between.
        b, p, n, d = x.shape
        turn = rotary_angles(spots.reshape(b, p * n, 2), d // self.config.num_heads)
        owners = [] if owner is None else [jnp.repeat(owner, n, 1)]

        def within_patches(*arrays):
            found = within_patch_attention(*(a.reshape(b * p, n, *a.shape[2:]) for a in arrays))
            return found.reshape(b, p * n, *found.shape[2:])

        def across_patches(*arrays):
            return current_placement().attend(kernel, *arrays, *owners, across=True)

        def pair(x, blocks):
            within, across = blocks
            y = within(x, turn, within_patches)
            z = across(y, turn, across_patches if kernel else within_patches)
            z = current_placement().shard_tokens(z)
            # In its last shape here, since after the loop a CPU would hold all layers twice.
            return z, jnp.concatenate([y, z], -1).reshape(b, p, n, 2 * d)

        c, x = self.config, x.reshape(b, p * n, d)
        return run_blocks((self.within_patch, self.across_patches), x, pair, c.dpt_layers, c.remat)


def _first_of(owner: Int[Array, "B P"]) -> Bool[Array, "B P"]:
    """Where the patches of an owner begin."""
    return jnp.diff(owner, axis=1, prepend=-1) != 0


def _run_head(
    head: Head, layers: list[Float[Array, "B P N C"]], rows_cols: tuple[int, int], remat: bool
) -> Offsets:
    """The head on all patches, a few at a time, whichever number there is.

    With remat they are fewer, and computed again for their gradients.
    """
    rows, cols = rows_cols
    b, p = layers[0].shape[:2]
    flat = [x.reshape(b * p, *x.shape[2:]) for x in layers]
    pixels = HEAD_PIXELS // 4 if remat else HEAD_PIXELS
    chunk = max(pixels // (rows * cols * TOKEN_SIZE * TOKEN_SIZE), 1)
    if b * p <= chunk:
        value, confidence = head(flat, rows, cols)
    else:
        one = lambda x: jax.tree.map(lambda a: a[0], head([t[None] for t in x], rows, cols))  # noqa: E731
        one = jax.checkpoint(one) if remat else one
        value, confidence = jax.lax.map(one, flat, batch_size=chunk)
    return Offsets(
        value.reshape(b, p, *value.shape[1:]), confidence.reshape(b, p, *value.shape[1:3])
    )


def build(c: Model, seed: int) -> URGT:
    """A refiner with weights drawn from the seed, the same on any mesh."""
    return URGT(c, nnx.Rngs(seed))


def freshly_drawn_params(c: Model) -> dict[str, dict]:
    """What the released code draws anew when it starts from VGGT, in the shape of the weights.

    The embeddings of the priors and the last layer of the depth head are N(0, 1e-4) with biases of
    0. How the normal head starts is not published: here as when nothing is known.
    """
    small, rngs = nnx.initializers.normal(1e-4), nnx.Rngs(0)

    def layer(size: int, out: int):
        return {"kernel": small(rngs.params(), (size, out)), "bias": jnp.zeros(out)}

    found = {
        "encoder": {
            kind: {"proj": layer(TOKEN_SIZE * TOKEN_SIZE * channels, c.width)}
            for kind, channels in CHANNELS.items()
        }
    }
    if "depth" in c.outputs:
        found["depth_head"] = {"pyramid": {"last": layer(DETAIL, 1 + CHANNELS["depth"])}}
    if "normal" in c.outputs:
        head = nnx.state(Head(c, CHANNELS["normal"], rngs), nnx.Param)
        found["normal_head"] = nnx.to_pure_dict(head)
    return found
