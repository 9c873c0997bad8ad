"""DINOv2's vision transformer with registers, which also takes coarse depth and normals."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from urgt_jax.config import TOKEN, Model
from urgt_jax.model.layers import Block, Norm, run, stack

REGISTERS = 4
EPS = 1e-6


def contrast(deviation: float, channels: int):
    """Random filters that answer less to the mean of a token than to what varies within it."""

    def draw(key, shape, dtype=jnp.float32):
        kernel = deviation * jax.random.normal(key, (TOKEN * TOKEN, channels, shape[-1]), dtype)
        return (kernel - 0.8 * kernel.mean(0)).reshape(shape)

    return draw


class TokenEmbed(nnx.Module):
    """One linear map from each 14 x 14 square of pixels to a token."""

    def __init__(self, channels: int, width: int, init, dtype, rngs: nnx.Rngs):
        self.proj = nnx.Linear(
            TOKEN * TOKEN * channels, width, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B N D"]:
        b, h, w, c = x.shape
        squares = x.reshape(b, h // TOKEN, TOKEN, w // TOKEN, TOKEN, c).swapaxes(2, 3)
        return self.proj(squares.reshape(b, -1, TOKEN * TOKEN * c))


class Encoder(nnx.Module):
    """Patch tokens of pictures with their priors added to the embedding."""

    def __init__(self, c: Model, rngs: nnx.Rngs):
        dtype, side = jnp.dtype(c.dtype), c.pretrain // TOKEN
        normal = nnx.initializers.normal(0.02)
        self.image = TokenEmbed(3, c.width, contrast(0.02, 3), dtype, rngs)
        self.depth = TokenEmbed(1, c.width, contrast(0.2, 1), dtype, rngs)
        self.normal = TokenEmbed(3, c.width, contrast(0.02, 3), dtype, rngs)
        self.cls = nnx.Param(normal(rngs.params(), (1, 1, c.width)))
        self.registers = nnx.Param(normal(rngs.params(), (1, REGISTERS, c.width)))
        self.positions = nnx.Param(normal(rngs.params(), (1, 1 + side * side, c.width)))
        self.blocks = stack(
            c.encoder_depth,
            rngs,
            lambda r: Block(
                c.width, c.heads, eps=EPS, qk_norm=False, scale=c.encoder_scale, dtype=dtype, rngs=r
            ),
        )
        self.norm = Norm(c.width, EPS, rngs)
        self.remat = c.remat
        self.dtype = dtype

    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        depth: Float[Array, "B H W"],
        normal: Float[Array, "B H W 3"],
    ) -> Float[Array, "B N D"]:
        b, h, w, _ = image.shape
        tokens = self.image(image) + self.depth(depth[..., None]) + self.normal(normal)
        cls, grid = self._positions(h // TOKEN, w // TOKEN)
        first = jnp.broadcast_to(self.cls[...] + cls, (b, 1, tokens.shape[-1]))
        registers = jnp.broadcast_to(self.registers[...], (b, REGISTERS, tokens.shape[-1]))
        x = jnp.concatenate([first, registers, tokens + grid], 1).astype(self.dtype)
        x = run(self.blocks, x, lambda x, block: block(x), remat=self.remat)
        return self.norm(x)[:, 1 + REGISTERS :]

    def _positions(self, rows: int, cols: int):
        """The position embedding of the class token and, resampled, of rows x cols tokens."""
        cls, grid = self.positions[...][:, :1], self.positions[...][:, 1:]
        side = round(grid.shape[1] ** 0.5)
        if (rows, cols) == (side, side):
            return cls, grid
        square = grid.reshape(1, side, side, -1)
        # torch's antialiased bicubic has JAX's coefficient, a = -0.5.
        resized = jax.image.resize(square, (1, rows, cols, square.shape[-1]), "cubic")
        return cls, resized.reshape(1, rows * cols, -1)
