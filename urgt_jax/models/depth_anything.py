"""Depth Anything V2: relative disparity from an image."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from urgt_jax.config import TOKEN_SIZE, Vit, check_layers, check_positive
from urgt_jax.images.resize import resize_cubic
from urgt_jax.models import imagenet
from urgt_jax.models.dpt import DPT
from urgt_jax.models.vit import VisionTransformer


@dataclass(frozen=True)
class DepthAnythingConfig:
    """The shape of a Depth Anything V2."""

    vit: Vit = field(default_factory=lambda: Vit(registers=0, position_resampling="offset"))
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)  # blocks whose outputs the DPT head reads
    features: int = 256  # channels of the head's fusion path
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # channels of the head's levels
    size: int = 518  # length that the shorter side of an image is resized to, pixels

    def __post_init__(self) -> None:
        check_positive("depth_anything", self, "features", "size")
        check_layers("depth_anything.layers", self.layers, self.vit.depth)


class DepthAnything(nnx.Module):
    """Relative disparity, 0 or more, of images normalised by `prepare`."""

    def __init__(self, config: DepthAnythingConfig, rngs: nnx.Rngs):
        self.config = config
        self.vit = VisionTransformer(config.vit, jnp.float32, rngs)
        self.pyramid = DPT(
            config.vit.width,
            config.features,
            config.channels,
            1,
            vggt=False,
            dtype=jnp.float32,
            rngs=rngs,
        )

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B H W"]:
        _, height, width, _ = image.shape
        layers = self.vit.intermediate_layers(self.vit.embed(image), self.config.layers)
        tokens = [self.vit.norm(x)[:, self.vit.special_tokens :] for x in layers]
        disparity = self.pyramid(tokens, height // TOKEN_SIZE, width // TOKEN_SIZE)[..., 0]
        return jax.nn.relu(disparity)


def input_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width that an image is resized to.

    They keep its aspect and are multiples of 14; the shorter side is at least `size`.
    """
    scale = max(size / height, size / width)
    sides = []
    for side in (height, width):
        tokens = scale * side / TOKEN_SIZE
        new = int(np.round(tokens)) * TOKEN_SIZE  # halves to even, as in the released code
        if new < size:
            new = int(np.ceil(tokens)) * TOKEN_SIZE
        sides.append(new)
    return sides[0], sides[1]


def prepare(image: UInt8[np.ndarray, "H W 3"], size: int) -> Float[np.ndarray, "1 h w 3"]:
    """The image at the network's size, normalised in float64, then cast to float32."""
    height, width = input_size(image.shape[0], image.shape[1], size)
    small = resize_cubic(image / 255.0, height, width)
    return ((small - imagenet.MEAN) / imagenet.STD)[None].astype(np.float32)


def build(config: DepthAnythingConfig, seed: int) -> DepthAnything:
    """A network with weights drawn from the seed."""
    return DepthAnything(config, nnx.Rngs(seed))
