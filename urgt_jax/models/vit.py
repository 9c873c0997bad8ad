"""DINOv2's vision transformer, which can also read a coarse depth map and coarse normals."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from urgt_jax.config import TOKEN_SIZE, Vit
from urgt_jax.models.layers import (
    Block,
    Norm,
    run_blocks,
    select_blocks,
    stack_blocks,
)
from urgt_jax.models.resize import resize_cubic

EPS = 1e-6
POSITION_OFFSET = 0.1  # DINOv2 adds it to the number of rows and columns, against rounding


def contrast_init(deviation: float, channels: int) -> Callable[..., Array]:
    """An initialiser of filters that respond less to the mean of a token than to its contrast."""

    def draw(key, shape, dtype=jnp.float32):
        _, width = shape
        by_pixel = (TOKEN_SIZE * TOKEN_SIZE, channels, width)
        kernel = deviation * jax.random.normal(key, by_pixel, dtype)
        return (kernel - 0.8 * kernel.mean(0)).reshape(shape)

    return draw


class PatchEmbed(nnx.Module):
    """A linear layer from each square of 14 x 14 pixels to a token."""

    def __init__(self, channels: int, width: int, deviation: float, dtype, rngs: nnx.Rngs):
        self.proj = nnx.Linear(
            TOKEN_SIZE * TOKEN_SIZE * channels,
            width,
            kernel_init=contrast_init(deviation, channels),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        b, h, w, c = x.shape
        rows = h // TOKEN_SIZE
        cols = w // TOKEN_SIZE
        squares = x.reshape(b, rows, TOKEN_SIZE, cols, TOKEN_SIZE, c).swapaxes(2, 3)
        return self.proj(squares.reshape(b, rows * cols, TOKEN_SIZE * TOKEN_SIZE * c))


class VisionTransformer(nnx.Module):
    """Images to tokens: a class token, registers and one token for each 14 x 14 pixels."""

    def __init__(
        self,
        config: Vit,
        dtype,
        rngs: nnx.Rngs,
        *,
        residual_dtype="float32",
        priors: bool = False,
        remat: str = "none",
    ):
        width = config.width
        side = config.pretrain_size // TOKEN_SIZE
        normal = nnx.initializers.normal(0.02)
        self.image = PatchEmbed(3, width, 0.02, dtype, rngs)
        self.depth = PatchEmbed(1, width, 1.0, dtype, rngs) if priors else None
        self.normal = PatchEmbed(3, width, 0.1, dtype, rngs) if priors else None
        self.cls = nnx.Param(normal(rngs.params(), (1, 1, width)))
        if config.registers:
            self.registers = nnx.Param(normal(rngs.params(), (1, config.registers, width)))
        else:
            self.registers = None
        self.positions = nnx.Param(normal(rngs.params(), (1, 1 + side * side, width)))

        def build_block(rngs):
            return Block(
                width,
                config.num_heads,
                ffn=config.ffn,
                eps=EPS,
                qk_norm=False,
                layer_scale=config.layer_scale,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = stack_blocks(config.depth, rngs, build_block)
        self.norm = Norm(width, EPS, rngs)
        self.config = config
        self.remat = remat
        self.dtype = dtype
        self.residual_dtype = residual_dtype

    @property
    def special_tokens(self) -> int:
        """The number of tokens before those of the image."""
        return 1 + self.config.registers

    def embed(
        self,
        image: Float[Array, "B H W 3"],
        depth: Float[Array, "B H W"] | None = None,
        normal: Float[Array, "B H W 3"] | None = None,
    ) -> Float[Array, "B N D"]:
        """All tokens before the first block. Priors are added before the position embedding."""
        b, h, w, _ = image.shape
        width = self.config.width
        tokens = self.image(image)
        if depth is not None:
            tokens = tokens + self.depth(depth[..., None])
        if normal is not None:
            tokens = tokens + self.normal(normal)
        cls_position, positions = self.position_embedding(h // TOKEN_SIZE, w // TOKEN_SIZE)
        parts = [jnp.broadcast_to(self.cls[...] + cls_position, (b, 1, width))]
        if self.registers is not None:  # they have no position
            shape = (b, self.config.registers, width)
            parts.append(jnp.broadcast_to(self.registers[...], shape))
        parts.append(tokens + positions)
        return jnp.concatenate(parts, 1).astype(self.residual_dtype)

    def intermediate_layers(
        self, tokens: Float[Array, "B N D"], layers: tuple[int, ...]
    ) -> list[Float[Array, "B N D"]]:
        """Tokens after some of the blocks, which count from 0, without the last norm."""

        def run_block(x, block):
            x = block(x)
            return x, x

        outputs = run_blocks(self.blocks, tokens, run_block, layers, self.remat, self.dtype)
        return select_blocks(outputs, layers)

    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        depth: Float[Array, "B H W"] | None = None,
        normal: Float[Array, "B H W 3"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Normed tokens of the image after the last block."""
        tokens = self.embed(image, depth, normal)
        (tokens,) = self.intermediate_layers(tokens, (self.config.depth - 1,))
        return self.norm(tokens)[:, self.special_tokens :]

    def position_embedding(
        self, rows: int, cols: int
    ) -> tuple[Float[Array, "1 1 D"], Float[Array, "1 N D"]]:
        """The position embedding of the class token and of rows x cols tokens, resampled."""
        cls_position = self.positions[...][:, :1]
        positions = self.positions[...][:, 1:]
        side = self.config.pretrain_size // TOKEN_SIZE
        if (rows, cols) == (side, side):
            return cls_position, positions
        width = self.config.width
        square = positions.reshape(1, side, side, width)
        if self.config.position_resampling == "antialias":
            # torch's antialiased bicubic kernel has the same coefficient as JAX's, a = -0.5.
            resized = jax.image.resize(square, (1, rows, cols, width), "cubic")
        else:
            steps = side / (rows + POSITION_OFFSET), side / (cols + POSITION_OFFSET)
            resized = resize_cubic(square, rows, cols, steps)
        return cls_position, resized.reshape(1, rows * cols, width)
