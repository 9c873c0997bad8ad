"""Maps as colours."""

import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.images.rows import LazyMap

# From far to near: dark blue, violet, magenta, orange, pale yellow.
RAMP = np.array(
    [[13, 18, 66], [66, 20, 120], [140, 32, 128], [208, 62, 98], [247, 125, 64], [253, 200, 98],
     [252, 250, 208]], np.float32)  # fmt: skip
RGB = UInt8[np.ndarray, "H W 3"]


def colour_values(x: Float[np.ndarray, "H W"], low: float, high: float) -> RGB:
    """Numbers as colours, dark for low."""
    place = np.clip((x - low) / max(high - low, 1e-12), 0, 1) * (len(RAMP) - 1)
    # A table of 1024 colours is much faster than interpolation at every pixel.
    steps = np.linspace(0, len(RAMP) - 1, 1024)
    table = np.stack([np.interp(steps, np.arange(len(RAMP)), RAMP[:, i]) for i in range(3)], -1)
    return table.round().astype(np.uint8)[(place * (1023 / (len(RAMP) - 1))).astype(np.int16)]


def colour_range(x: Float[np.ndarray, "H W"] | LazyMap) -> tuple[float, float]:
    """Between which numbers all but the extreme percent at either end lie."""
    step = 4 if x.shape[0] * x.shape[1] > 1e6 else 1
    low, high = np.percentile(x[::step, ::step], (1, 99))
    return float(low), float(high)


def colour_normal(normal: Float[np.ndarray, "H W 3"]) -> RGB:
    """Normals as colours: red to the right, green up, blue towards the camera."""
    turned = normal * np.array([127.5, -127.5, -127.5], np.float32) + np.float32(127.5)
    return np.clip(turned + 0.5, 0, 255).astype(np.uint8)
