"""A camera's faults, compiled: blur, exposure, gamma, noise and compression."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from urgt_jax.data.scenes.arrays import Arrays, CameraArrays
from urgt_jax.data.scenes.camera import LINES

SIDE = 112  # pixels of a block; a multiple of the 16 x 16 pixels that JPEG compresses together
DEVIATIONS = 2.5  # reach of the blur in standard deviations

# The tables of the JPEG standard (ITU-T T.81, annex K.1), for a quality of 50.
LUMINANCE = """
    16  11  10  16  24  40  51  61
    12  12  14  19  26  58  60  55
    14  13  16  24  40  57  69  56
    14  17  22  29  51  87  80  62
    18  22  37  56  68 109 103  77
    24  35  55  64  81 104 113  92
    49  64  78  87 103 121 120 101
    72  92  95  98 112 100 103  99
"""
CHROMINANCE = """
    17  18  24  47  99  99  99  99
    18  21  26  66  99  99  99  99
    24  26  56  99  99  99  99  99
    47  66  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
"""


def reach(blur: float, height: int) -> int:
    """Pixels of each side that the blur of a camera uses in an image of that height."""
    return int(DEVIATIONS * blur * height / LINES + 0.5)


class Block(NamedTuple):
    """A square of an image. Several blocks have the same fields with one more first axis."""

    number: Int[Arrays, "*N"]  # in the image; its noise depends on it
    corner: Int[Arrays, "*N 2"]  # first row and column
    light: Float[Arrays, "*N padded padded 3"]  # of SIDE x SIDE pixels and a margin around them


def develop(
    camera: CameraArrays, gain: Float[Array, ""], size: Int[Array, "2"], block: Block
) -> UInt8[Array, "side side 3"]:
    """The pixels of a block.

    `gain` is the exposure over the mean light of the image, `size` the image's height and width.
    """
    light = _blurred(block.light, camera.blur * size[0] / LINES) * (gain * camera.balance)
    light = light * _vignette(camera, size, block.corner)
    pixels = jnp.exp(camera.gamma * jnp.log(jnp.maximum(light, 1e-20)))
    key = jax.random.fold_in(jax.random.key(camera.seed), block.number)
    noise = jax.random.normal(key, pixels.shape, jnp.float32)
    pixels = pixels + noise * (camera.read + camera.shot * jnp.sqrt(jnp.minimum(pixels, 1)))
    pixels = _rounded(jnp.clip(pixels, 0, 1) * 255)
    pixels = jax.lax.cond(
        camera.quality > 0, lambda: _compressed(pixels, camera.quality), lambda: pixels
    )
    return pixels.astype(jnp.uint8)


def _rounded(values: Float[Array, "*B"]) -> Float[Array, "*B"]:
    return jnp.floor(values + 0.5)


def _blurred(light: Float[Array, "padded padded 3"], sigma: Float[Array, ""]):
    """A Gaussian blur of the block within its margin."""
    margin = (light.shape[0] - SIDE) // 2
    offsets = jnp.arange(-margin, margin + 1, dtype=jnp.float32)
    distance = jnp.floor(DEVIATIONS * sigma + 0.5).astype(jnp.int32)
    taps = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-6)) ** 2)
    taps = jnp.where(jnp.abs(offsets) <= distance, taps, 0.0)
    taps = taps / taps.sum()
    for axis in (0, 1):
        shape = [*light.shape]
        shape[axis] = SIDE

        def add(tap, total, light=light, axis=axis):
            return total + taps[tap] * jax.lax.dynamic_slice_in_dim(light, tap, SIDE, axis)

        start = jnp.zeros(shape, jnp.float32)
        light = jax.lax.fori_loop(margin - distance, margin + distance + 1, add, start)
    return light


def _vignette(camera: CameraArrays, size: Int[Array, "2"], corner: Int[Array, "2"]):
    """The share of light that reaches each pixel."""
    places = jnp.arange(SIDE, dtype=jnp.int32)
    y, x = ((places + corner[i]).astype(jnp.float32) for i in (0, 1))
    y, x = (y + 0.5) / size[0] * 2 - 1, (x + 0.5) / size[1] * 2 - 1
    return (1 - camera.vignette / 2 * (x[None] ** 2 + y[:, None] ** 2))[..., None]


def _compressed(pixels: Float[Array, "side side 3"], quality: Int[Array, ""]):
    """What JPEG keeps of pixels in [0, 255], with colour at half the resolution."""
    red, green, blue = (pixels[..., i] for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = jnp.stack([(blue - luma) / 1.772, (red - luma) / 1.402])
    luma = _quantised(luma - 128, LUMINANCE, quality) + 128
    half = SIDE // 2
    chroma = chroma.reshape(2, half, 2, half, 2).mean((2, 4))
    chroma = jnp.stack([_quantised(part, CHROMINANCE, quality) for part in chroma])
    chroma = jax.image.resize(chroma, (2, SIDE, SIDE), "linear")
    red = luma + 1.402 * chroma[1]
    blue = luma + 1.772 * chroma[0]
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return jnp.clip(_rounded(jnp.stack([red, green, blue], -1)), 0, 255)


def _quantised(plane: Float[Array, "n n"], table: str, quality: Int[Array, ""]):
    """Blocks of 8 x 8 values after quantisation of their cosine transform."""
    scale = jnp.where(quality < 50, 5000 // jnp.maximum(quality, 1), 200 - 2 * quality)
    steps = jnp.clip((_table(table) * scale + 50) // 100, 1, 255).astype(jnp.float32)
    count = plane.shape[0] // 8
    blocks = plane.reshape(count, 8, count, 8)
    basis = _cosines()
    waves = jnp.einsum("ui,aibj,vj->abuv", basis, blocks, basis, precision="highest")
    waves = jnp.round(waves / steps) * steps
    blocks = jnp.einsum("ui,abuv,vj->aibj", basis, waves, basis, precision="highest")
    return blocks.reshape(plane.shape)


def _table(text: str) -> np.ndarray:
    return np.array(text.split(), np.int32).reshape(8, 8)


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform of 8 values; rows are frequencies."""
    frequency, place = np.mgrid[:8, :8]
    basis = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
