"""Maps as colours."""

import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.images.rows import LazyMap

RGB = UInt8[np.ndarray, "H W 3"]

# From far to near.
RAMP = np.array(
    [
        [13, 18, 66],  # dark blue
        [66, 20, 120],  # violet
        [140, 32, 128],  # magenta
        [208, 62, 98],  # red
        [247, 125, 64],  # orange
        [253, 200, 98],  # yellow
        [252, 250, 208],  # pale yellow
    ],
    np.float32,
)
STEPS = 1024  # colours of the ramp that are looked up: much faster than a mixture for every pixel


def colour_values(x: Float[np.ndarray, "H W"], low: float, high: float) -> RGB:
    """Colour numbers: the dark end of the ramp for `low` and below, the pale end for `high`."""
    stops = np.linspace(0, len(RAMP) - 1, STEPS)
    channels = [np.interp(stops, np.arange(len(RAMP)), RAMP[:, i]) for i in range(3)]
    colours = np.stack(channels, -1).round().astype(np.uint8)
    share = np.clip((x - low) / max(high - low, 1e-12), 0, 1)
    return colours[(share * (STEPS - 1)).astype(np.int16)]


def colour_range(x: Float[np.ndarray, "H W"] | LazyMap) -> tuple[float, float]:
    """The 1st and 99th percentile of a map, of every fourth row and column if it is large."""
    step = 4 if x.shape[0] * x.shape[1] > 1e6 else 1
    low, high = np.percentile(x[::step, ::step], (1, 99))
    return float(low), float(high)


def colour_normal(normal: Float[np.ndarray, "H W 3"]) -> RGB:
    """Colour normals: red to the right, green up, blue towards the camera."""
    shifted = normal * np.array([127.5, -127.5, -127.5], np.float32) + np.float32(127.5)
    return np.clip(shifted + 0.5, 0, 255).astype(np.uint8)
