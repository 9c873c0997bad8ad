"""DPT: tokens of four layers become a dense map, as VGGT's and as Depth Anything's heads do it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from urgt_jax.config import TOKEN_SIZE, Model
from urgt_jax.models.convolution import Conv
from urgt_jax.models.layers import Norm, linear
from urgt_jax.models.resize import resize

EPS = 1e-5
DETAIL = 32  # channels before the last map


class ConvTranspose(nnx.Module):
    """A transposed convolution whose kernel is its stride: every pixel becomes k x k pixels."""

    def __init__(self, channels: int, out: int, times: int, dtype, rngs: nnx.Rngs):
        self.times, self.dtype = times, dtype
        init = nnx.initializers.lecun_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (channels, times * times * out)))
        self.bias = nnx.Param(jnp.zeros(out))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B k*H k*W D"]:
        b, h, w, _ = x.shape
        k = self.times
        y = jnp.dot(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        y = y.reshape(b, h, w, k, k, -1).swapaxes(2, 3).reshape(b, h * k, w * k, -1)
        return y + self.bias[...].astype(self.dtype)


class Residual(nnx.Module):
    """Two convolutions added to x or, where the released ReLU works in place, to relu(x)."""

    def __init__(self, features: int, rectified: bool, dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(3, features, features, dtype, rngs)
        self.conv2 = Conv(3, features, features, dtype, rngs)
        self.rectified = rectified

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        positive = jax.nn.relu(x)
        return self.conv2(jax.nn.relu(self.conv1(positive))) + (positive if self.rectified else x)


class Fusion(nnx.Module):
    """Adds a finer level to the coarser ones and enlarges the sum."""

    def __init__(self, features: int, deepest: bool, rectified: bool, dtype, rngs: nnx.Rngs):
        self.level = None if deepest else Residual(features, rectified, dtype, rngs)
        self.both = Residual(features, rectified, dtype, rngs)
        self.out = linear(features, features, dtype, rngs)

    def __call__(self, x, level, size: tuple[int, int]):
        if self.level is not None:
            x = x + self.level(level)
        # A map of each pixel on its own commutes with bilinear enlargement, and is cheaper before.
        return resize(self.out(self.both(x)), *size, align_corners=True)


def uv_embedding(height: int, width: int, channels: int, aspect: float) -> Float[Array, "H W C"]:
    """Sines and cosines of the place in a picture of that aspect (width over height)."""
    diagonal = np.hypot(aspect, 1.0)
    u = np.linspace(-1, 1, width) * (aspect / diagonal) * (width - 1) / width
    v = np.linspace(-1, 1, height) * (1 / diagonal) * (height - 1) / height
    speed = 100.0 ** -(np.arange(channels // 4) / (channels / 4))

    def waves(place):
        angle = place[..., None] * speed
        return np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)

    # As a sum of columns and rows it is made where it is used. At full size it would weigh 137 MB
    # as a constant, and concatenated it would stay in memory while the whole head runs.
    none = np.zeros_like
    by_column = jnp.concatenate([waves(u), none(waves(u))], -1)
    by_row = jnp.concatenate([none(waves(v)), waves(v)], -1)
    return by_column + by_row[:, None]


class DPT(nnx.Module):
    """Levels at 4, 2, 1 and 1/2 times the tokens' lattice, fused into one map of pixels."""

    def __init__(
        self, width: int, features: int, channels, outputs: int, *, vggt: bool, dtype, rngs,
        init=None,
    ):  # fmt: skip
        self.dtype, self.vggt = dtype, vggt  # VGGT's: rectified skips, places added
        self.projects = nnx.List([linear(width, n, dtype, rngs) for n in channels])
        self.upsample4 = ConvTranspose(channels[0], channels[0], 4, dtype, rngs)
        self.upsample2 = ConvTranspose(channels[1], channels[1], 2, dtype, rngs)
        self.halve = nnx.Conv(
            channels[3], channels[3], (3, 3), strides=2, padding=1,
            kernel_init=nnx.initializers.lecun_uniform(), dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.levels = nnx.List([Conv(3, n, features, dtype, rngs, bias=False) for n in channels])
        self.fusions = nnx.List([Fusion(features, i == 3, vggt, dtype, rngs) for i in range(4)])
        self.smooth = Conv(3, features, features // 2, dtype, rngs)
        self.detail = Conv(3, features // 2, DETAIL, dtype, rngs)
        self.last = linear(DETAIL, outputs, jnp.float32, rngs, init)

    def __call__(
        self, tokens: list[Float[Array, "B N C"]], rows: int, cols: int
    ) -> Float[Array, "B H W C"]:
        return self.last(self.describe(tokens, rows, cols))

    def describe(
        self, tokens: list[Float[Array, "B N C"]], rows: int, cols: int
    ) -> Float[Array, "B H W D"]:
        """Every pixel's features, in float32, which `last` makes the maps of."""
        levels = self.reassemble(tokens, rows, cols)
        x = self.smooth(self.fuse(levels))
        x = resize(x, TOKEN_SIZE * rows, TOKEN_SIZE * cols, align_corners=True)
        return jax.nn.relu(self.detail(self._placed(x, cols / rows))).astype(jnp.float32)

    def reassemble(self, tokens, rows: int, cols: int) -> list[Float[Array, "B h w F"]]:
        """The four levels, fine to coarse, all with the same channels."""
        shapes = (self.upsample4, self.upsample2, lambda x: x, self.halve)
        maps = []
        for x, project, shape, level in zip(
            tokens, self.projects, shapes, self.levels, strict=True
        ):
            x = project(x.reshape(x.shape[0], rows, cols, -1))
            maps.append(level(shape(self._placed(x, cols / rows))))
        return maps

    def fuse(self, levels: list[Float[Array, "B h w F"]]) -> Float[Array, "B H W F"]:
        """The levels added from coarse to fine, at twice the finest one's size."""
        sizes = [level.shape[1:3] for level in levels]
        sizes.insert(0, (2 * sizes[0][0], 2 * sizes[0][1]))
        x = None
        for i in (3, 2, 1, 0):
            x = self.fusions[i](levels[i] if x is None else x, levels[i], sizes[i])
        return x

    def _placed(self, x: Float[Array, "B H W C"], aspect: float) -> Float[Array, "B H W C"]:
        if not self.vggt:
            return x
        return x + 0.1 * uv_embedding(*x.shape[1:], aspect).astype(x.dtype)


class Head(nnx.Module):
    """VGGT's head: offsets and confidences at the patch's process shape."""

    def __init__(self, c: Model, outputs: int, rngs: nnx.Rngs):
        dtype = jnp.dtype(c.dtype)
        self.norm = Norm(2 * c.width, EPS, rngs)
        # Near zero, so that training starts at the coarse map.
        near_zero = nnx.initializers.normal(c.last_layer_std)
        self.pyramid = DPT(
            2 * c.width, c.dpt_features, c.dpt_channels, outputs + 1, vggt=True, dtype=dtype, rngs=rngs,
            init=near_zero,
        )  # fmt: skip

    def __call__(
        self, tokens: list[Float[Array, "B N C"]], rows: int, cols: int
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W"]]:
        x = self.pyramid.describe([self.norm(x) for x in tokens], rows, cols)
        value = self.pyramid.last(x)[..., :-1]
        # A confidence reads what the maps are made of and must not shape it.
        sure = self.pyramid.last(jax.lax.stop_gradient(x))[..., -1]
        return value, 1.0 + jnp.exp(sure)
