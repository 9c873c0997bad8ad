"""DPT: tokens of four layers become a dense map, as in the heads of VGGT and Depth Anything."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from urgt_jax.config import TOKEN_SIZE, Model
from urgt_jax.models.convolution import Conv
from urgt_jax.models.layers import Initializer, Norm, linear
from urgt_jax.models.resize import resize

EPS = 1e-5
DETAIL = 32  # channels before the last layer
UV_SCALE = 0.1  # VGGT's weight of the embedding of pixel coordinates


class ConvTranspose(nnx.Module):
    """A transposed convolution whose kernel is its stride: a pixel becomes stride x stride ones."""

    def __init__(self, inputs: int, outputs: int, stride: int, dtype, rngs: nnx.Rngs):
        self.stride = stride
        self.dtype = dtype
        init = nnx.initializers.lecun_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (inputs, stride * stride * outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        b, h, w, _ = x.shape
        k = self.stride
        y = jnp.dot(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        y = y.reshape(b, h, w, k, k, -1).swapaxes(2, 3)
        y = y.reshape(b, h * k, w * k, -1)
        return y + self.bias[...].astype(self.dtype)


class Residual(nnx.Module):
    """Two convolutions with a skip connection.

    The skip adds x or, with `rectified_skip`, relu(x), as released code does whose ReLU works in
    place.
    """

    def __init__(self, features: int, rectified_skip: bool, dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(3, features, features, dtype, rngs)
        self.conv2 = Conv(3, features, features, dtype, rngs)
        self.rectified_skip = rectified_skip

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        positive = jax.nn.relu(x)
        y = self.conv2(jax.nn.relu(self.conv1(positive)))
        return y + (positive if self.rectified_skip else x)


class Fusion(nnx.Module):
    """Adds a finer level to the coarser ones and enlarges the sum."""

    def __init__(self, features: int, deepest: bool, rectified_skip: bool, dtype, rngs: nnx.Rngs):
        self.level = None if deepest else Residual(features, rectified_skip, dtype, rngs)
        self.both = Residual(features, rectified_skip, dtype, rngs)
        self.out = linear(features, features, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B H W C"], level: Float[Array, "B H W C"], size: tuple[int, int]
    ) -> Float[Array, "B h w C"]:
        if self.level is not None:
            x = x + self.level(level)
        # A 1 x 1 convolution commutes with bilinear resampling and is cheaper before it.
        x = self.out(self.both(x))
        return resize(x, size[0], size[1], align_corners=True)


def uv_embedding(height: int, width: int, channels: int, aspect: float) -> Float[Array, "H W C"]:
    """Sines and cosines of pixel coordinates in an image of that aspect (width over height)."""
    diagonal = np.hypot(aspect, 1.0)
    u = np.linspace(-1, 1, width) * (aspect / diagonal) * (width - 1) / width
    v = np.linspace(-1, 1, height) * (1 / diagonal) * (height - 1) / height
    frequencies = 100.0 ** -(np.arange(channels // 4) / (channels / 4))

    def waves(coordinate):
        angles = coordinate[..., None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)

    # A sum of columns and rows is computed where it is used. As a constant the full embedding
    # would take 137 MB, and concatenated it would stay in memory for as long as the head runs.
    u_waves = waves(u)
    v_waves = waves(v)
    by_column = jnp.concatenate([u_waves, np.zeros_like(u_waves)], -1)
    by_row = jnp.concatenate([np.zeros_like(v_waves), v_waves], -1)
    return by_column + by_row[:, None]


class DPT(nnx.Module):
    """Levels at 4, 2, 1 and 1/2 times the size of the token lattice, fused into one dense map."""

    def __init__(
        self,
        width: int,
        features: int,
        channels: tuple[int, int, int, int],
        outputs: int,
        *,
        vggt: bool,
        dtype: Any,
        rngs: nnx.Rngs,
        last_init: Initializer | None = None,
    ):
        self.dtype = dtype
        self.vggt = vggt  # VGGT's variant: rectified skips, and coordinates are added
        self.projects = nnx.List([linear(width, n, dtype, rngs) for n in channels])
        self.upsample4 = ConvTranspose(channels[0], channels[0], 4, dtype, rngs)
        self.upsample2 = ConvTranspose(channels[1], channels[1], 2, dtype, rngs)
        self.halve = nnx.Conv(
            channels[3],
            channels[3],
            (3, 3),
            strides=2,
            padding=1,
            kernel_init=nnx.initializers.lecun_uniform(),
            dtype=dtype,
            rngs=rngs,
        )
        self.levels = nnx.List([Conv(3, n, features, dtype, rngs, bias=False) for n in channels])
        self.fusions = nnx.List([Fusion(features, i == 3, vggt, dtype, rngs) for i in range(4)])
        self.smooth = Conv(3, features, features // 2, dtype, rngs)
        self.detail = Conv(3, features // 2, DETAIL, dtype, rngs)
        self.last = linear(DETAIL, outputs, jnp.float32, rngs, last_init)

    def __call__(
        self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int
    ) -> Float[Array, "B H W C"]:
        """The map that the tokens of four layers decode to, at 14 times the rows and columns."""
        return self.last(self.pixel_features(tokens, rows, cols))

    def pixel_features(
        self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int
    ) -> Float[Array, "B H W F"]:
        """The input of the last layer, in float32."""
        levels = self.reassemble(tokens, rows, cols)
        x = self.smooth(self.fuse(levels))
        x = resize(x, TOKEN_SIZE * rows, TOKEN_SIZE * cols, align_corners=True)
        x = self.detail(self._add_coordinates(x, cols / rows))
        return jax.nn.relu(x).astype(jnp.float32)

    def reassemble(
        self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int
    ) -> list[Float[Array, "B _ _ F"]]:
        """The four levels from fine to coarse, all with the same channels."""
        levels = []
        for i, x in enumerate(tokens):
            x = self.projects[i](x.reshape(x.shape[0], rows, cols, -1))
            x = self._add_coordinates(x, cols / rows)
            if i == 0:
                x = self.upsample4(x)
            elif i == 1:
                x = self.upsample2(x)
            elif i == 3:
                x = self.halve(x)
            levels.append(self.levels[i](x))
        return levels

    def fuse(self, levels: list[Float[Array, "B _ _ F"]]) -> Float[Array, "B H W F"]:
        """The levels added from coarse to fine, at twice the size of the finest one."""
        height, width = levels[0].shape[1:3]
        sizes = [(2 * height, 2 * width)]  # the size after each fusion
        for level in levels[:3]:
            sizes.append(level.shape[1:3])
        x = levels[3]
        for i in (3, 2, 1, 0):
            x = self.fusions[i](x, levels[i], sizes[i])
        return x

    def _add_coordinates(
        self, x: Float[Array, "B H W C"], aspect: float
    ) -> Float[Array, "B H W C"]:
        """x with the embedding of its pixel coordinates, in VGGT's variant."""
        if not self.vggt:
            return x
        _, height, width, channels = x.shape
        embedding = uv_embedding(height, width, channels, aspect)
        return x + UV_SCALE * embedding.astype(x.dtype)


class DPTHead(nnx.Module):
    """VGGT's head: an offset with `outputs` channels and a confidence for every pixel."""

    def __init__(self, config: Model, outputs: int, rngs: nnx.Rngs):
        width = 2 * config.width
        self.norm = Norm(width, EPS, rngs)
        self.pyramid = DPT(
            width,
            config.dpt_features,
            config.dpt_channels,
            outputs + 1,
            vggt=True,
            dtype=jnp.dtype(config.dtypes.heads),
            rngs=rngs,
            # Near zero, so that training starts at the coarse map.
            last_init=nnx.initializers.normal(config.last_layer_std),
        )

    def __call__(
        self, tokens: list[Float[Array, "B N D"]], rows: int, cols: int
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W"]]:
        """Offsets, and confidences of 1 and above."""
        x = self.pyramid.pixel_features([self.norm(x) for x in tokens], rows, cols)
        offset = self.pyramid.last(x)[..., :-1]
        # The loss of the confidence must not change the features that the offset is read from.
        log_confidence = self.pyramid.last(jax.lax.stop_gradient(x))[..., -1]
        return offset, 1.0 + jnp.exp(log_confidence)
