"""What an experiment is made of: frozen dataclasses, whose comments are the command line's help."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from urgt_jax.config import TOKEN_SIZE, Vit, check_layers, check_positive
from urgt_jax.images.resize import resize_corners, resize_cubic
from urgt_jax.models.dpt import DPT
from urgt_jax.models.vit import VisionTransformer


@dataclass(frozen=True)
class DepthAnythingConfig:
    """Depth Anything V2: relative disparity from a picture."""

    vit: Vit = field(default_factory=lambda: Vit(registers=0, position_resampling="offset"))
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)  # blocks whose outputs the head reads
    features: int = 256  # channels of the head's fusion path
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # channels of the head's levels
    size: int = 518  # least side a picture is resized to, pixels

    def __post_init__(self) -> None:
        check_positive("depth_anything", self, "features", "size")
        check_layers("depth_anything.layers", self.layers, self.vit.depth)


MEAN = np.array([0.485, 0.456, 0.406])  # ImageNet's, of pictures in [0, 1]
STD = np.array([0.229, 0.224, 0.225])


class DepthAnything(nnx.Module):
    """Disparity, 0 or more and without a unit, of normalised pictures."""

    def __init__(self, c: DepthAnythingConfig, rngs: nnx.Rngs):
        self.config = c
        self.vit = VisionTransformer(c.vit, jnp.float32, rngs)
        self.pyramid = DPT(
            c.vit.width, c.features, c.channels, 1, vggt=False, dtype=jnp.float32, rngs=rngs
        )

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B H W"]:
        layers = self.vit.layers(self.vit.embed(image), self.config.layers)
        tokens = [self.vit.norm(x)[:, self.vit.special :] for x in layers]
        _, h, w, _ = image.shape
        return jax.nn.relu(self.pyramid(tokens, h // TOKEN_SIZE, w // TOKEN_SIZE)[..., 0])


def input_size(height: int, width: int, size: int) -> tuple[int, int]:
    """The shape a picture is resized to: its aspect, the shorter side `size`, multiples of 14."""
    scale = max(size / height, size / width)
    sides = []
    for side in (height, width):
        near = (
            int(np.round(scale * side / TOKEN_SIZE)) * TOKEN_SIZE
        )  # halves to even, as the original
        sides.append(near if near >= size else int(np.ceil(scale * side / TOKEN_SIZE)) * TOKEN_SIZE)
    return sides[0], sides[1]


def prepare(image: UInt8[np.ndarray, "H W 3"], size: int) -> Float[np.ndarray, "1 h w 3"]:
    """The picture at the network's size, normalised in float64 before it becomes float32."""
    small = resize_cubic(image / 255.0, *input_size(*image.shape[:2], size))
    return ((small - MEAN) / STD)[None].astype(np.float32)


def finish(
    disparity: Float[np.ndarray, "1 h w"], height: int, width: int
) -> Float[np.ndarray, "H W"]:
    """The map at the picture's size."""
    return resize_corners(disparity[0], height, width)


def build(c: DepthAnythingConfig, seed: int) -> DepthAnything:
    """A model with weights drawn from the seed."""
    return DepthAnything(c, nnx.Rngs(seed))
