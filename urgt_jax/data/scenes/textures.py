"""Looks of solids, and the tables of random numbers that their textures read. `paint.py` paints."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float

SIDE = 256  # of the noise table, texels
LEVELS = 7  # levels of its pyramid
TABLES = 8  # number of tables; looks read them at different scales and positions
CELLS = 64  # side of the table with a random number for each cell
F = np.float32


@dataclass(frozen=True)
class Look:
    """Colours and texture of a solid."""

    pattern: str
    colours: np.ndarray  # [2+, 3] in [0, 1]: the background, then the foreground colours
    to_cells: np.ndarray  # [2, 2] from metres on the surface to cells of the pattern
    shift: np.ndarray  # [2] cells
    share: float  # in [0, 1]; a width or a threshold, depending on the pattern
    noise: tuple[float, float]  # strength of fine and of coarse noise
    texel: float  # size of a texel of the noise, metres
    gloss: float = 0.0  # strength of highlights
    power: float = 20.0  # sharpness of highlights


class Tables:
    """Random numbers for the textures of a scene."""

    def __init__(self, rng: np.random.Generator):
        self.cells = rng.random((CELLS, CELLS), F)
        self.white = rng.standard_normal((SIDE, SIDE), F)
        self.slope = rng.uniform(0.9, 1.6)  # exponent of the amplitude over frequency

    @cached_property
    def pyramid(self) -> Float[np.ndarray, "texels"]:
        """Periodic coloured noise in levels, each at half the resolution of the one before."""
        y, x = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
        weight = 1 / np.maximum(np.hypot(x, y), 2 / SIDE) ** self.slope
        weight[0, 0] = 0
        noise = np.fft.irfft2(np.fft.rfft2(self.white) * weight, (SIDE, SIDE))
        levels = [(noise / noise.std()).astype(F)]
        for _ in range(LEVELS - 1):
            n = len(levels[-1]) // 2
            levels.append(levels[-1].reshape(n, 2, n, 2).mean((1, 3)))
        return np.concatenate([level.ravel() for level in levels])


@lru_cache(maxsize=TABLES)
def tables(number: int) -> Tables:
    """One of TABLES tables, cached because one takes longer to make than a small image."""
    return Tables(np.random.default_rng([7, number]))
