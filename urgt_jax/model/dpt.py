"""VGGT's DPT head: tokens of four layers become a map of offsets and its confidence."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from urgt_jax.config import TOKEN, Model
from urgt_jax.geometry import resize
from urgt_jax.model.convolution import Conv
from urgt_jax.model.layers import Norm, linear

EPS = 1e-5


class Spread(nnx.Module):
    """A transposed convolution whose kernel is its stride: every pixel becomes k x k pixels."""

    def __init__(self, channels: int, times: int, dtype, rngs: nnx.Rngs):
        self.times = times
        self.linear = linear(channels, channels * times * times, dtype, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B k*H k*W C"]:
        b, h, w, c = x.shape
        k = self.times
        y = self.linear(x).reshape(b, h, w, k, k, c).swapaxes(2, 3)
        return y.reshape(b, h * k, w * k, c)


class Residual(nnx.Module):
    """Two convolutions added to relu(x), not to x: the released code's ReLU works in place."""

    def __init__(self, features: int, dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(3, features, features, dtype, rngs)
        self.conv2 = Conv(3, features, features, dtype, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = jax.nn.relu(x)
        return self.conv2(jax.nn.relu(self.conv1(x))) + x


class Fusion(nnx.Module):
    """Adds a finer level to the coarser ones and enlarges the sum."""

    def __init__(self, features: int, deepest: bool, dtype, rngs: nnx.Rngs):
        self.level = None if deepest else Residual(features, dtype, rngs)
        self.both = Residual(features, dtype, rngs)
        self.out = linear(features, features, dtype, rngs)

    def __call__(self, x, level, size: tuple[int, int]):
        if self.level is not None:
            x = x + self.level(level)
        return self.out(resize(self.both(x), *size, align_corners=True))


def uv_embedding(height: int, width: int, channels: int, aspect: float) -> np.ndarray:
    """[H, W, C] sines and cosines of the place in a picture of that aspect (width over height)."""
    diagonal = np.hypot(aspect, 1.0)
    u = np.linspace(-1, 1, width) * (aspect / diagonal) * (width - 1) / width
    v = np.linspace(-1, 1, height) * (1 / diagonal) * (height - 1) / height
    speed = 100.0 ** -(np.arange(channels // 4) / (channels / 4))

    def waves(place):
        angle = place[..., None] * speed
        return np.concatenate([np.sin(angle), np.cos(angle)], -1)

    u, v = np.meshgrid(u, v)
    return np.concatenate([waves(u), waves(v)], -1).astype(np.float32)


class Head(nnx.Module):
    """Offsets and confidences at the patch's process shape, one dense map from four layers."""

    def __init__(self, c: Model, outputs: int, rngs: nnx.Rngs):
        dtype, f = jnp.dtype(c.dtype), c.features
        self.dtype = dtype
        self.norm = Norm(2 * c.width, EPS, rngs)
        self.projects = nnx.List([linear(2 * c.width, n, dtype, rngs) for n in c.channels])
        self.spread4 = Spread(c.channels[0], 4, dtype, rngs)
        self.spread2 = Spread(c.channels[1], 2, dtype, rngs)
        self.halve = nnx.Conv(
            c.channels[3], c.channels[3], (3, 3), strides=2, padding=1,
            kernel_init=nnx.initializers.lecun_uniform(), dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.levels = nnx.List([Conv(3, n, f, dtype, rngs, bias=False) for n in c.channels])
        self.fusions = nnx.List([Fusion(f, i == 3, dtype, rngs) for i in range(4)])
        self.smooth = Conv(3, f, f // 2, dtype, rngs)
        self.detail = Conv(3, f // 2, 32, dtype, rngs)
        # Near zero, so that training starts at the coarse map.
        near_zero = nnx.initializers.normal(1e-4)
        self.last = linear(32, outputs + 1, jnp.float32, rngs, near_zero)

    def __call__(
        self, tokens: list[Float[Array, "B N C"]], rows: int, cols: int
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W"]]:
        aspect = cols / rows
        levels = self._levels(tokens, rows, cols, aspect)
        sizes = [level.shape[1:3] for level in levels]
        x = self.fusions[3](levels[3], None, sizes[2])
        x = self.fusions[2](x, levels[2], sizes[1])
        x = self.fusions[1](x, levels[1], sizes[0])
        x = self.fusions[0](x, levels[0], (2 * sizes[0][0], 2 * sizes[0][1]))
        x = resize(self.smooth(x), TOKEN * rows, TOKEN * cols, align_corners=True)
        x = x + 0.1 * uv_embedding(*x.shape[1:], aspect).astype(x.dtype)
        y = self.last(jax.nn.relu(self.detail(x)).astype(jnp.float32))
        return y[..., :-1], 1.0 + jnp.exp(y[..., -1])

    def _levels(self, tokens, rows: int, cols: int, aspect: float):
        """Maps at 4, 2, 1 and 1/2 times the tokens' lattice, all with the same channels."""
        shapes = (self.spread4, self.spread2, lambda x: x, self.halve)
        maps = []
        for x, project, shape, level in zip(
            tokens, self.projects, shapes, self.levels, strict=True
        ):
            x = self.norm(x).reshape(x.shape[0], rows, cols, -1)
            x = project(x)
            x = x + 0.1 * uv_embedding(rows, cols, x.shape[-1], aspect).astype(x.dtype)
            maps.append(level(shape(x)))
        return maps
