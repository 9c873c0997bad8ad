"""Textures: patterns that mix colours on a surface. Detail finer than a pixel is faded out."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Int

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
    def pyramid(self) -> tuple[np.ndarray, np.ndarray]:
        """Periodic coloured noise, each level at half the resolution; where each level starts."""
        y, x = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
        weight = 1 / np.maximum(np.hypot(x, y), 2 / SIDE) ** self.slope
        weight[0, 0] = 0
        noise = np.fft.irfft2(np.fft.rfft2(self.white) * weight, (SIDE, SIDE))
        levels = [(noise / noise.std()).astype(F)]
        for _ in range(LEVELS - 1):
            n = len(levels[-1]) // 2
            levels.append(levels[-1].reshape(n, 2, n, 2).mean((1, 3)))
        starts = np.cumsum([0, *(level.size for level in levels)])[:-1]
        return np.concatenate([level.ravel() for level in levels]), starts.astype(np.int32)

    def random(
        self, i: int | Int[np.ndarray, "n"], j: int | Int[np.ndarray, "n"], salt: int = 0
    ) -> F | Float[np.ndarray, "n"]:
        """A number in [0, 1) for each cell."""
        return self.cells[(i + 17 * salt) % CELLS, (j + 29 * salt) % CELLS]

    def noise(
        self, position: Float[np.ndarray, "n 2"], fine: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n"]:
        """Noise of unit variance at positions in texels, where a pixel covers `fine` texels."""
        flat, starts = self.pyramid
        level = np.clip(np.frexp(fine)[1] - 1, 0, LEVELS - 1)
        # Contiguous, because strided coordinates take twice as long.
        x, y = (np.ldexp(np.ascontiguousarray(position[:, k]), -level) for k in (0, 1))
        i, j = np.floor(x), np.floor(y)
        a, b = x - i, y - j
        side = np.right_shift(np.int32(SIDE), level, dtype=np.int32)
        i, j = i.astype(np.int32) & (side - 1), j.astype(np.int32) & (side - 1)
        k, m = (i + 1) & (side - 1), (j + 1) & (side - 1)
        start = starts[level]
        i, k = start + i * side, start + k * side
        upper, lower = flat[i + j], flat[k + j]
        upper += (flat[i + m] - upper) * b
        lower += (flat[k + m] - lower) * b
        return upper + (lower - upper) * a


@lru_cache(maxsize=TABLES)
def tables(number: int) -> Tables:
    """One of TABLES tables, cached because one takes longer to make than a small image."""
    return Tables(np.random.default_rng([7, number]))


def _edge(distance: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """1 inside (positive distance), 0 outside, with a ramp one pixel wide between them."""
    return np.clip(distance / np.maximum(fine, F(1e-4)) + F(0.5), 0, 1)


def _split(position: np.ndarray):
    """The cell of each position, and the position in the cell, along x and y."""
    base = np.floor(position)
    i, j = base.astype(np.int32).T
    x, y = (position - base).T
    return i, j, x, y


def _stripes(look: Look, tables: Tables, position, fine):
    i, _, x, _ = _split(position)
    width = F(0.15 + 0.35 * look.share)
    return _edge(width - np.abs(x - F(0.5)), fine), tables.random(i, i), width * 2


def _checks(look: Look, tables: Tables, position, fine):
    i, j, x, y = _split(position)
    odd = ((i + j) % 2).astype(F)
    near = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    inside = _edge(near, fine)
    return odd * inside + (1 - odd) * (1 - inside), tables.random(i, j), F(0.5)


def _dots(look: Look, tables: Tables, position, fine):
    i, j, x, y = _split(position)
    radius = F(0.12) + F(0.3 * look.share) * tables.random(i, j)
    x = x - F(0.5) - (tables.random(i, j, 1) - F(0.5)) * F(0.16)
    y = y - F(0.5) - (tables.random(i, j, 2) - F(0.5)) * F(0.16)
    return _edge(radius - np.hypot(x, y), fine), tables.random(i, j, 3), F(0.2)


def _bricks(look: Look, tables: Tables, position, fine):
    position = position * np.array([1, 1 + 2 * look.share], F)
    position[:, 0] += (np.floor(position[:, 1]) % 2) * F(0.5)
    i, j, x, y = _split(position)
    near = np.minimum(F(0.5) - np.abs(x - F(0.5)), F(0.5) - np.abs(y - F(0.5)))
    return _edge(near - F(0.04), fine), tables.random(i, j), F(0.85)


def _tiles(look: Look, tables: Tables, position, fine):
    i, j, x, y = _split(position)
    near = np.minimum(F(0.5) - np.abs(x - F(0.5)), F(0.5) - np.abs(y - F(0.5)))
    return _edge(near - F(0.01 + 0.03 * look.share), fine), tables.random(i, j), F(0.9)


def _wood(look: Look, tables: Tables, position, fine):
    i, j, x, y = _split(position * np.array([1, 0.12], F) + tables.random(0, 0))
    bend = tables.noise(position * np.array([6, 0.7], F), fine * 6)
    rings = position[:, 0] * F(3 + 5 * look.share) + bend * F(0.5) + tables.random(i, 0) * 7
    part = rings - np.floor(rings)
    return np.clip(part * (1.3 - part) * 2, 0, 1), tables.random(i, j, 1), F(0.5)


def _blotches(look: Look, tables: Tables, position, fine):
    value = tables.noise(position * 24, fine * 24) - F(1.4 * look.share - 0.7)
    return np.clip(value * F(2 + 6 * look.share) + F(0.5), 0, 1), value * 0, F(0.5)


def _poster(look: Look, tables: Tables, position, fine):
    """Overlapping rectangles of three sizes, as in posters, prints and shop shelves."""
    mask, cell = np.zeros_like(fine), np.zeros_like(fine)
    for salt, scale in enumerate((1.0, 2.6, 6.1)):
        i, j, x, y = _split(position * F(scale) + F(0.37 * salt))
        lows = [tables.random(i, j, 10 * salt + k) * F(0.45) for k in range(4)]
        near = np.minimum(
            np.minimum(x - lows[0], 1 - lows[1] - x), np.minimum(y - lows[2], 1 - lows[3] - y)
        )
        shown = tables.random(i, j, 10 * salt + 4) < F(0.4 + 0.4 * look.share)
        inside = _edge(near, fine * F(scale)) * shown
        cell = np.where(inside > 0.5, tables.random(i, j, 10 * salt + 5), cell)
        mask = np.maximum(mask, inside)
    return mask, cell, F(0.5)


def _text(look: Look, tables: Tables, position, fine):
    """Lines of strokes with gaps, like words."""
    i, j, x, y = _split(position * np.array([3, 1], F))
    word = tables.random(i // 4, j, 1) < 0.8
    line = tables.random(j // 2, 0, 2) < 0.9
    k, m, _, _ = _split(position * np.array([12, 6], F))
    stroke = tables.random(k, m, 3) < F(0.35 + 0.4 * look.share)
    tall = np.abs(y - F(0.5)) < 0.3
    mask = (word & line & stroke & tall & (x > 0.12)).astype(F)
    return mask * np.clip(2 - fine * 8, 0, 1), tables.random(j // 7, 0, 4), F(0.25)


def _plain(look: Look, tables: Tables, position, fine):
    return np.zeros_like(fine), np.zeros_like(fine), F(0)


def _voronoi(look: Look, tables: Tables, position, fine):
    """Cells around scattered points, with seams between them."""
    i, j, x, y = _split(position)
    first, second = np.full_like(x, 9), np.full_like(x, 9)
    cell = np.zeros_like(x)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            dx = x - a - tables.random(i + a, j + b, 1)
            far = np.hypot(dx, y - b - tables.random(i + a, j + b, 2))
            nearer = far < first
            second = np.where(nearer, first, np.minimum(second, far))
            cell = np.where(nearer, tables.random(i + a, j + b, 3), cell)
            first = np.where(nearer, far, first)
    return _edge(second - first - F(0.02 + 0.1 * look.share), fine), cell, F(0.8)


def _rings(look: Look, tables: Tables, position, fine):
    """Rings around the centres of large cells, or a spiral."""
    i, j, x, y = _split(position / 5)
    x, y = x - F(0.5), y - F(0.5)
    spiral = np.arctan2(y, x) / F(2 * np.pi) * (tables.random(i, j) < 0.5)
    part = np.hypot(x, y) * F(4 + 12 * look.share) + spiral
    band = np.floor(part)
    rate = fine * F((4 + 12 * look.share) / 5)
    distance = F(0.25) - np.abs(part - band - F(0.5))
    return _edge(distance, rate), tables.random(band.astype(np.int32), i + j), F(0.5)


def _marble(look: Look, tables: Tables, position, fine):
    warp = tables.noise(position * 10, fine * 10)
    wave = np.sin(position[:, 0] * F(4 + 8 * look.share) + warp * F(2.5))
    return 1 - np.sqrt(np.abs(wave)), tables.random(0, 0) + warp * 0, F(0.3)


def _triangles(look: Look, tables: Tables, position, fine):
    i, j, x, y = _split(position @ np.array([[1, 0], [-0.577, 1.155]], F))
    upper = (x + y > 1).astype(np.int32)
    mask = _edge((np.abs(x + y - 1)), fine * 2) * upper
    return mask, tables.random(2 * i + upper, j), F(0.5)


PATTERNS = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "bricks": _bricks,
    "tiles": _tiles,
    "wood": _wood,
    "blotches": _blotches,
    "poster": _poster,
    "text": _text,
    "voronoi": _voronoi,
    "rings": _rings,
    "marble": _marble,
    "triangles": _triangles,
}


def paint(
    look: Look, tables: Tables, position: Float[np.ndarray, "n 2"], pixel: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n 3"]:
    """Colours at positions on the surface, where a pixel covers `pixel` metres of it."""
    cells = position @ look.to_cells.astype(F) + look.shift.astype(F)
    fine = pixel * F(np.sqrt(np.abs(np.linalg.det(look.to_cells))))
    colours = look.colours.astype(F)
    if look.pattern == "plain":
        out = np.broadcast_to(colours[0], (*fine.shape, 3))
    else:
        mask, cell, mean = PATTERNS[look.pattern](look, tables, cells, fine)
        mask = mean + (mask - mean) * np.clip(F(1.5) - fine * 2, 0, 1)
        pick = 1 + np.minimum((cell * (len(colours) - 1)).astype(np.int32), len(colours) - 2)
        out = colours[0] + (colours[np.maximum(pick, 1)] - colours[0]) * mask[:, None]
    return out * (1 + _grain(look, tables, position, pixel))[:, None]


def _grain(look: Look, tables: Tables, position, pixel) -> np.ndarray:
    texels = position / F(look.texel)
    total = F(look.noise[0]) * tables.noise(texels + F(7), pixel / F(look.texel))
    if look.noise[1]:
        slow = F(0.07)
        total += F(look.noise[1]) * tables.noise(texels * slow, pixel / F(look.texel) * slow)
    return np.clip(total, -0.9, 1.5)
