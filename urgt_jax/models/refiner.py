"""URGT: the patches of an image as views of one transformer, which predicts offsets to coarse maps.

Within-patch blocks alternate with blocks across all patches, after VGGT (frame and global blocks).
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from urgt_jax.config import TOKEN_SIZE, Model
from urgt_jax.models import imagenet
from urgt_jax.models.attention import attention, packed_attention
from urgt_jax.models.dpt import DETAIL, DPTHead
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
MEAN = imagenet.MEAN.astype(np.float32)
STD = imagenet.STD.astype(np.float32)
REGISTERS = 4
SPECIAL_TOKENS = 1 + REGISTERS  # camera token and registers of every patch
CHANNELS = {"depth": 1, "normal": 3}  # of the offsets of each DPT head
HEAD_PIXELS = 8 * 518 * 518  # pixels of patches that a DPT head takes at a time, to bound memory


def tokens_per_patch(config: Model) -> int:
    """The number of tokens of a patch, with camera token and registers."""
    rows, cols = config.tokens
    return SPECIAL_TOKENS + rows * cols


def head_chunk(rows: int, cols: int, remat: bool) -> int:
    """How many patches of rows x cols tokens a DPT head takes at a time."""
    pixels = HEAD_PIXELS // 4 if remat else HEAD_PIXELS
    return max(pixels // (rows * cols * TOKEN_SIZE * TOKEN_SIZE), 1)


def token_grid(image: Shaped[Array, "B P H W 3"]) -> tuple[int, int]:
    """Rows and columns of tokens in each patch of an image."""
    return image.shape[2] // TOKEN_SIZE, image.shape[3] // TOKEN_SIZE


class Offsets(NamedTuple):
    """The output of a DPT head for patches of H x W pixels."""

    value: Float[Array, "B P H W C"]  # to be added to the coarse map
    confidence: Float[Array, "B P H W"]  # 1 and above


class URGT(nnx.Module):
    """Offsets of depth and normals for all patches of an image, in one pass."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        dtype = jnp.dtype(config.dtypes.products)
        normal = nnx.initializers.normal(0.02)
        self.encoder = VisionTransformer(
            config.encoder,
            dtype,
            rngs,
            residual_dtype=jnp.dtype(config.dtypes.residual),
            priors=True,
            remat=config.remat,
        )
        # One set of special tokens for the first patch, and one for all others.
        self.camera = nnx.Param(normal(rngs.params(), (2, 1, width)))
        self.registers = nnx.Param(normal(rngs.params(), (2, REGISTERS, width)))

        def build_block(rngs):
            return Block(
                width,
                config.num_heads,
                eps=EPS,
                qk_norm=True,
                layer_scale=config.layer_scale,
                dtype=dtype,
                rngs=rngs,
            )

        self.within_patch = stack_blocks(config.depth, rngs, build_block)
        self.across_patches = stack_blocks(config.depth, rngs, build_block)
        outputs = config.outputs
        self.depth_head = DPTHead(config, CHANNELS["depth"], rngs) if "depth" in outputs else None
        self.normal_head = (
            DPTHead(config, CHANNELS["normal"], rngs) if "normal" in outputs else None
        )

    def __call__(
        self,
        image: UInt8[Array, "B P H W 3"] | Float[Array, "B P H W 3"],
        depth: Float[Array, "B P H W"],
        normal: Float[Array, "B P H W 3"],
        positions: Float[Array, "B P N 2"],
        patches: int | None = None,
        owner: Int[Array, "B P"] | None = None,
    ) -> dict[str, Offsets]:
        """Offsets of all patches, by the name of the output (depth, normal).

        Only the first `patches` patches (default: all) are real; no other patch sees the rest,
        which pad the batch so that devices can share it. Where the patches of several images share
        a row, `owner` is the image of each patch, counted from 0, and patches see only those of
        their own image.
        """
        layers = self.layers(image, depth, normal, positions, patches, owner)
        with jax.named_scope("heads"):
            return self.predict_offsets(layers, token_grid(image))

    def layers(
        self,
        image: UInt8[Array, "B P H W 3"] | Float[Array, "B P H W 3"],
        depth: Float[Array, "B P H W"],
        normal: Float[Array, "B P H W 3"],
        positions: Float[Array, "B P N 2"],
        patches: int | None = None,
        owner: Int[Array, "B P"] | None = None,
    ) -> Float[Array, "K B P M C"]:
        """The output of `attend` for all patches. The arguments are those of `__call__`."""
        with jax.named_scope("encode"):
            tokens = self.encode(image, depth, normal)
        with jax.named_scope("attend"):
            return self.attend(tokens, positions, patches, owner=owner)

    def encode(
        self,
        image: UInt8[Array, "B P H W 3"] | Float[Array, "B P H W 3"],
        depth: Float[Array, "B P H W"],
        normal: Float[Array, "B P H W 3"],
    ) -> Float[Array, "B P N D"]:
        """The tokens of every patch on its own. An image has bytes, or floats in [0, 1]."""
        batch, patches = image.shape[:2]
        scale = 255.0 if image.dtype == jnp.uint8 else 1.0
        image = (image.astype(jnp.float32) / scale - MEAN) / STD
        tokens = self.encoder(
            image.reshape(batch * patches, *image.shape[2:]),
            depth.reshape(batch * patches, *depth.shape[2:]),
            normal.reshape(batch * patches, *normal.shape[2:]),
        )
        return tokens.reshape(batch, patches, *tokens.shape[1:])

    def attend(
        self,
        tokens: Float[Array, "B P N D"],
        positions: Float[Array, "B P N 2"],
        patches: int | None = None,
        pool: int = 1,
        owner: Int[Array, "B P"] | None = None,
    ) -> Float[Array, "K B P M 2*D"]:
        """The outputs of the pairs of blocks that the DPT heads read, with special tokens.

        The outputs of both blocks of a pair are concatenated. With `pool` above 1 attention across
        patches is approximate: to the means of pool x pool tokens.
        """
        x, positions = self.add_special_tokens(tokens, positions, owner=owner)
        x = current_placement().shard_tokens(x)
        if patches is None:
            patches = x.shape[1]
        cross_patch_attention = self._cross_patch_attention(patches, x.shape[2], pool)
        return self._run_pairs(x, positions, cross_patch_attention, owner)

    def add_special_tokens(
        self,
        tokens: Float[Array, "B P N D"],
        positions: Float[Array, "B P N 2"],
        start: int | Int[Array, ""] = 0,
        owner: Int[Array, "B P"] | None = None,
    ) -> tuple[Float[Array, "B P N+5 D"], Float[Array, "B P N+5 2"]]:
        """Tokens and positions with the special tokens, whose position is 0.

        `start` is the number of the first of these patches in the image.
        """
        batch, patches = tokens.shape[:2]
        if owner is None:
            is_first = start + np.arange(patches) == 0
        else:
            is_first = jnp.diff(owner, axis=1, prepend=-1) != 0
        special = self._special_tokens(batch, is_first, tokens.dtype)
        if self.config.rope == "local":
            # Those of the first patch, with its first token at position 1.
            first_patch = positions[:, :1] - positions[:, :1, :1] + 1.0
            positions = jnp.broadcast_to(first_patch, positions.shape)
        positions = jnp.pad(positions, ((0, 0), (0, 0), (SPECIAL_TOKENS, 0), (0, 0)))
        return jnp.concatenate([special, tokens], 2), positions

    def _special_tokens(
        self, batch: int, is_first: Bool[Array | np.ndarray, "*B P"], dtype: Any
    ) -> Float[Array, "b P 5 D"]:
        """Camera token and registers; the first patch of an image has its own."""
        first, other = jnp.concatenate([self.camera[...], self.registers[...]], 1)
        tokens = jnp.where(is_first[..., None, None], first, other)
        return jnp.broadcast_to(tokens, (batch, *tokens.shape[-3:])).astype(dtype)

    def _cross_patch_attention(
        self, patches: int, tokens: int, pool: int
    ) -> AttentionFunction | None:
        """Attention to the first `patches` patches of `tokens` tokens; None if there is none."""
        if not self.config.cross_patch:
            return None
        if pool > 1:
            cells = Cells(SPECIAL_TOKENS, self.config.tokens, pool)
            return partial(cells.attend, patches=patches)
        keys = patches * tokens

        def attend(q, k, v, owner=None):
            if owner is None:
                return attention(q, k[:, :keys], v[:, :keys])
            return packed_attention(q, k, v, owner)

        return attend

    def _run_pairs(
        self,
        x: Float[Array, "B P N D"],
        positions: Float[Array, "B P N 2"],
        cross_patch_attention: AttentionFunction | None,
        owner: Int[Array, "B P"] | None,
    ) -> Float[Array, "K B P N 2*D"]:
        """The outputs of the pairs of blocks that the DPT heads read."""
        # All tokens of an image stand in one row, also in within-patch blocks. Then the end of a
        # block and the start of the next one have the same layout, and nothing is copied.
        batch, patches, tokens, width = x.shape
        row = patches * tokens
        x = x.reshape(batch, row, width)
        angles = rotary_angles(positions.reshape(batch, row, 2), width // self.config.num_heads)
        token_owner = None if owner is None else jnp.repeat(owner, tokens, 1)

        def attend_within(q, k, v):
            shape = (batch * patches, tokens, *q.shape[2:])
            output = within_patch_attention(q.reshape(shape), k.reshape(shape), v.reshape(shape))
            return output.reshape(batch, row, *output.shape[2:])

        def attend_across(q, k, v):
            if cross_patch_attention is None:
                return attend_within(q, k, v)
            placement = current_placement()
            return placement.attend(cross_patch_attention, q, k, v, token_owner, across=True)

        def run_pair(x, blocks):
            within, across = blocks
            with jax.named_scope("within_patch"):
                y = within(x, angles, attend_within)
            with jax.named_scope("across_patches"):
                z = across(y, angles, attend_across)
            z = current_placement().shard_tokens(z)
            # Reshaped inside the loop: after it, a CPU would hold all outputs twice.
            output = jnp.concatenate([y, z], -1).reshape(batch, patches, tokens, 2 * width)
            return z, output.astype(self.config.dtypes.heads)

        config = self.config
        blocks = self.within_patch, self.across_patches
        return run_blocks(
            blocks, x, run_pair, config.dpt_layers, config.remat, config.dtypes.products
        )

    def features(
        self, layers: Float[Array, "K B P M C"], tokens: tuple[int, int]
    ) -> Float[Array, "B P L h w C"]:
        """The L layers that the DPT heads read, as maps of h x w tokens of every patch.

        `layers` is the output of `attend`. `tokens` are the rows and columns of tokens in a patch.
        """
        selected = jnp.stack(select_blocks(layers, self.config.dpt_layers), axis=2)
        selected = selected[..., SPECIAL_TOKENS:, :]
        return selected.reshape(*selected.shape[:3], *tokens, selected.shape[-1])

    def predict_offsets(
        self, layers: Float[Array, "K B P N D"], tokens: tuple[int, int]
    ) -> dict[str, Offsets]:
        """Offsets of every patch on its own, from the output of `attend`.

        `tokens` are the rows and columns of tokens in a patch.
        """
        # Selected here and not in `attend`, which would hold the layers of all patches twice.
        selected = select_blocks(layers, self.config.dpt_layers)
        selected = [layer[:, :, SPECIAL_TOKENS:] for layer in selected]
        run_head = partial(_run_head, tokens=tokens, remat=self.config.remat != "none")
        offsets = {}
        for name, head in (("depth", self.depth_head), ("normal", self.normal_head)):
            if head is not None:
                offsets[name] = current_placement().map_patches(run_head, head, selected)
        return offsets


def _run_head(
    head: DPTHead, layers: list[Float[Array, "B P N D"]], tokens: tuple[int, int], remat: bool
) -> Offsets:
    """A DPT head on all patches, some at a time.

    With remat they are fewer at a time, and computed again for their gradients.
    """
    rows, cols = tokens
    batch, patches = layers[0].shape[:2]
    count = batch * patches
    layers = [x.reshape(count, *x.shape[2:]) for x in layers]
    chunk = head_chunk(rows, cols, remat)

    def run_head(layers):
        return head(layers, rows, cols)

    if count <= chunk:
        value, confidence = run_head(layers)
    else:
        if remat:
            run_head = jax.checkpoint(run_head)
        # In batches and not with vmap, under which the gradient of every kernel would be a grouped
        # convolution for each patch, which is slow on GPUs (docs/log.md, "The missing second").
        batches = [_split_evenly(x, chunk) for x in layers]
        value, confidence = jax.lax.map(run_head, batches)
        value = value.reshape(-1, *value.shape[2:])[:count]
        confidence = confidence.reshape(-1, *confidence.shape[2:])[:count]
    value = value.reshape(batch, patches, *value.shape[1:])
    confidence = confidence.reshape(batch, patches, *confidence.shape[1:])
    return Offsets(value, confidence)


def _split_evenly(x: Float[Array, "P ..."], largest: int) -> Float[Array, "C p ..."]:
    """Chunks of equal size, at most `largest`; zeros fill the last one."""
    chunks = math.ceil(len(x) / largest)
    size = math.ceil(len(x) / chunks)
    padding = [(0, chunks * size - len(x))] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(chunks, size, *x.shape[1:])


def build(config: Model, seed: int) -> URGT:
    """A refiner with weights drawn from the seed, the same on any mesh."""
    return URGT(config, nnx.Rngs(seed))


def freshly_drawn_params(config: Model) -> dict[str, dict]:
    """The parameters that the released code draws anew when it starts from VGGT's weights.

    The embeddings of the priors and the last layer of the depth head are N(0, 1e-4) with biases of
    0. How the normal head starts is not published: it is drawn as for training from scratch.
    """
    rngs = nnx.Rngs(0)
    init = nnx.initializers.normal(1e-4)

    def draw_layer(inputs: int, outputs: int) -> dict[str, Array]:
        return {"kernel": init(rngs.params(), (inputs, outputs)), "bias": jnp.zeros(outputs)}

    params: dict[str, dict] = {"encoder": {}}
    for name, channels in CHANNELS.items():
        inputs = TOKEN_SIZE * TOKEN_SIZE * channels
        params["encoder"][name] = {"proj": draw_layer(inputs, config.width)}
    if "depth" in config.outputs:
        params["depth_head"] = {"pyramid": {"last": draw_layer(DETAIL, 1 + CHANNELS["depth"])}}
    if "normal" in config.outputs:
        head = DPTHead(config, CHANNELS["normal"], rngs)
        params["normal_head"] = nnx.to_pure_dict(nnx.state(head, nnx.Param))
    return params
