"""DINOv2's vision transformer, which also takes coarse depth and normals where asked."""

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
OFFSET = 0.1  # what DINOv2 adds to the wanted number of tokens, against rounding


def contrast(deviation: float, channels: int):
    """Random filters that answer less to the mean of a token than to what varies within it."""

    def draw(key, shape, dtype=jnp.float32):
        kernel = deviation * jax.random.normal(
            key, (TOKEN_SIZE * TOKEN_SIZE, channels, shape[-1]), dtype
        )
        return (kernel - 0.8 * kernel.mean(0)).reshape(shape)

    return draw


class PatchEmbed(nnx.Module):
    """One linear map from each 14 x 14 square of pixels to a token."""

    def __init__(self, channels: int, width: int, init, dtype, rngs: nnx.Rngs):
        self.proj = nnx.Linear(
            TOKEN_SIZE * TOKEN_SIZE * channels, width, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        b, h, w, c = x.shape
        squares = x.reshape(
            b, h // TOKEN_SIZE, TOKEN_SIZE, w // TOKEN_SIZE, TOKEN_SIZE, c
        ).swapaxes(2, 3)
        return self.proj(squares.reshape(b, -1, TOKEN_SIZE * TOKEN_SIZE * c))


class VisionTransformer(nnx.Module):
    """Class token, registers and patch tokens of pictures, after any of its blocks."""

    def __init__(self, c: Vit, dtype, rngs: nnx.Rngs, *, priors: bool = False, remat: str = "none"):
        side = c.pretrain_size // TOKEN_SIZE
        normal = nnx.initializers.normal(0.02)
        self.image = PatchEmbed(3, c.width, contrast(0.02, 3), dtype, rngs)
        self.depth = PatchEmbed(1, c.width, contrast(1.0, 1), dtype, rngs) if priors else None
        self.normal = PatchEmbed(3, c.width, contrast(0.1, 3), dtype, rngs) if priors else None
        self.cls = nnx.Param(normal(rngs.params(), (1, 1, c.width)))
        self.registers = (
            nnx.Param(normal(rngs.params(), (1, c.registers, c.width))) if c.registers else None
        )
        self.positions = nnx.Param(normal(rngs.params(), (1, 1 + side * side, c.width)))

        def make(r):
            return Block(
                c.width, c.num_heads, ffn=c.ffn, eps=EPS, qk_norm=False, scale=c.layer_scale, dtype=dtype,
                rngs=r,
            )  # fmt: skip

        self.blocks = stack_blocks(c.depth, rngs, make)
        self.norm = Norm(c.width, EPS, rngs)
        self.config, self.remat, self.dtype = c, remat, dtype

    @property
    def special(self) -> int:
        """Tokens before those of the patches."""
        return 1 + self.config.registers

    def embed(
        self,
        image: Float[Array, "B H W 3"],
        depth: Float[Array, "B H W"] | None = None,
        normal: Float[Array, "B H W 3"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Tokens before the first block, priors added before positions."""
        b, h, w, _ = image.shape
        tokens = self.image(image)
        if depth is not None:
            tokens = tokens + self.depth(depth[..., None])
        if normal is not None:
            tokens = tokens + self.normal(normal)
        cls, grid = self.places(h // TOKEN_SIZE, w // TOKEN_SIZE)
        every = lambda x: jnp.broadcast_to(x, (b, *x.shape[1:]))  # noqa: E731
        parts = [every(self.cls[...] + cls)]
        if self.registers is not None:
            parts.append(every(self.registers[...]))  # they have no position
        return jnp.concatenate([*parts, tokens + grid], 1).astype(self.dtype)

    def layers(
        self, tokens: Float[Array, "B N D"], which: tuple[int, ...]
    ) -> list[Float[Array, "B N D"]]:
        """Tokens after some of the blocks, counted from 0, not normed."""

        def body(x, block):
            x = block(x)
            return x, x

        return select_blocks(run_blocks(self.blocks, tokens, body, which, self.remat), which)

    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        depth: Float[Array, "B H W"] | None = None,
        normal: Float[Array, "B H W 3"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Normed tokens of the patches after the last block."""
        (last,) = self.layers(self.embed(image, depth, normal), (self.config.depth - 1,))
        return self.norm(last)[:, self.special :]

    def places(self, rows: int, cols: int) -> tuple[Float[Array, "1 1 D"], Float[Array, "1 N D"]]:
        """The position embedding of the class token and, resampled, of rows x cols tokens."""
        cls, grid = self.positions[...][:, :1], self.positions[...][:, 1:]
        side = self.config.pretrain_size // TOKEN_SIZE
        if (rows, cols) == (side, side):
            return cls, grid
        square = grid.reshape(1, side, side, -1)
        if self.config.position_resampling == "antialias":
            # torch's antialiased bicubic has JAX's coefficient, a = -0.5.
            resized = jax.image.resize(square, (1, rows, cols, square.shape[-1]), "cubic")
        else:
            steps = side / (rows + OFFSET), side / (cols + OFFSET)
            resized = resize_cubic(square, rows, cols, steps)
        return cls, resized.reshape(1, rows * cols, -1)
