"""Textures, compiled: patterns that mix colours on a surface.

Detail finer than a pixel is faded out. Every array has one axis, the pixels; the fields of a look
are those of the solid that each pixel shows, with the pixels as their last axis.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.data.scenes.rays import length
from urgt_jax.data.scenes.textures import CELLS, LEVELS, SIDE

Pixels = Float[Array, "P"]


class Spot(NamedTuple):
    """Where pixels are on a pattern."""

    x: Pixels  # cells
    y: Pixels
    fine: Pixels  # cells that a pixel covers
    share: Pixels  # of the look
    warp: Pixels  # noise, of the patterns in WARPS


class Pattern(NamedTuple):
    """A pattern at some pixels."""

    mask: Pixels  # share of the foreground, 0 to 1
    cell: Pixels  # random number in [0, 1) of the cell, which chooses its colour
    mean: Pixels | float  # mean of the mask, to which it fades where a pixel covers much


def random(
    tables, i: Int[Array, "*P"] | int, j: Int[Array, "*P"] | int, salt: Int[Array, ""] | int = 0
) -> Float[Array, "*P"]:
    """A number in [0, 1) for each cell."""
    row = (i + 17 * salt) & (CELLS - 1)
    column = (j + 29 * salt) & (CELLS - 1)
    return _read(tables.cells.reshape(-1), jnp.asarray(row * CELLS + column))


def _read(table: Float[Array, "N"], index: Int[Array, "*P"]) -> Float[Array, "*P"]:
    return table.at[index].get(mode="promise_in_bounds")


def noise(tables, x: Pixels, y: Pixels, fine: Pixels) -> Pixels:
    """Noise of unit variance at positions in texels, where a pixel covers `fine` texels."""
    # The exponent in the bits of a float is the floor of its base-2 logarithm.
    exponent = (jax.lax.bitcast_convert_type(fine, jnp.int32) >> 23) - 127
    level = jnp.clip(exponent, 0, LEVELS - 1)
    scale = jax.lax.bitcast_convert_type((127 - level) << 23, jnp.float32)  # 2 ** -level
    x, y = x * scale, y * scale
    left, top = jnp.floor(x), jnp.floor(y)
    a, b = x - left, y - top
    side = SIDE >> level
    i, j = left.astype(jnp.int32) & (side - 1), top.astype(jnp.int32) & (side - 1)
    k, m = (i + 1) & (side - 1), (j + 1) & (side - 1)
    start = (SIDE * SIDE - (SIDE * SIDE >> (2 * level))) // 3 * 4  # texels of the levels before
    i, k = start + i * side, start + k * side
    upper_left, lower_left = _read(tables.noise, i + j), _read(tables.noise, k + j)
    upper = upper_left + (_read(tables.noise, i + m) - upper_left) * b
    lower = lower_left + (_read(tables.noise, k + m) - lower_left) * b
    return upper + (lower - upper) * a


def _edge(distance: Pixels, fine: Pixels) -> Pixels:
    """1 inside (positive distance), 0 outside, with a ramp one pixel wide between them."""
    return jnp.clip(distance / jnp.maximum(fine, 1e-4) + 0.5, 0, 1)


def _split(x: Pixels, y: Pixels):
    """The cell of each position, and the position in the cell."""
    left, top = jnp.floor(x), jnp.floor(y)
    return left.astype(jnp.int32), top.astype(jnp.int32), x - left, y - top


def _to_border(x: Pixels, y: Pixels) -> Pixels:
    """The distance to the nearest border of the cell."""
    return jnp.minimum(0.5 - jnp.abs(x - 0.5), 0.5 - jnp.abs(y - 0.5))


def _plain(spot: Spot, tables) -> Pattern:
    return Pattern(jnp.zeros_like(spot.x), jnp.zeros_like(spot.x), 0.0)


def _stripes(spot: Spot, tables) -> Pattern:
    i, _, x, _ = _split(spot.x, spot.y)
    width = 0.15 + 0.35 * spot.share
    return Pattern(_edge(width - jnp.abs(x - 0.5), spot.fine), random(tables, i, i), width * 2)


def _checks(spot: Spot, tables) -> Pattern:
    i, j, x, y = _split(spot.x, spot.y)
    inside = _edge(_to_border(x, y), spot.fine)
    mask = jnp.where((i + j) & 1 == 1, inside, 1 - inside)
    return Pattern(mask, random(tables, i, j), 0.5)


def _dots(spot: Spot, tables) -> Pattern:
    i, j, x, y = _split(spot.x, spot.y)
    radius = 0.12 + 0.3 * spot.share * random(tables, i, j)
    x = x - 0.5 - (random(tables, i, j, 1) - 0.5) * 0.16
    y = y - 0.5 - (random(tables, i, j, 2) - 0.5) * 0.16
    return Pattern(_edge(radius - length(x, y), spot.fine), random(tables, i, j, 3), 0.2)


def _bricks(spot: Spot, tables) -> Pattern:
    y = spot.y * (1 + 2 * spot.share)
    odd_row = jnp.floor(y).astype(jnp.int32) & 1
    i, j, x, y = _split(spot.x + odd_row * 0.5, y)
    return Pattern(_edge(_to_border(x, y) - 0.04, spot.fine), random(tables, i, j), 0.85)


def _tiles(spot: Spot, tables) -> Pattern:
    i, j, x, y = _split(spot.x, spot.y)
    mask = _edge(_to_border(x, y) - (0.01 + 0.03 * spot.share), spot.fine)
    return Pattern(mask, random(tables, i, j), 0.9)


def _wood(spot: Spot, tables) -> Pattern:
    first = random(tables, 0, 0)
    i, j, _, _ = _split(spot.x + first, spot.y * 0.12 + first)
    rings = spot.x * (3 + 5 * spot.share) + spot.warp * 0.5 + random(tables, i, 0) * 7
    part = rings - jnp.floor(rings)
    return Pattern(jnp.clip(part * (1.3 - part) * 2, 0, 1), random(tables, i, j, 1), 0.5)


def _blotches(spot: Spot, tables) -> Pattern:
    value = spot.warp - (1.4 * spot.share - 0.7)
    mask = jnp.clip(value * (2 + 6 * spot.share) + 0.5, 0, 1)
    return Pattern(mask, jnp.zeros_like(mask), 0.5)


def _poster(spot: Spot, tables) -> Pattern:
    """Overlapping rectangles of three sizes, as in posters, prints and shop shelves."""

    def add(number, state):
        mask, cell = state
        scale, salt = jnp.array([1.0, 2.6, 6.1], jnp.float32)[number], 10 * number
        shift = 0.37 * number
        i, j, x, y = _split(spot.x * scale + shift, spot.y * scale + shift)
        left, right, top, bottom = (random(tables, i, j, salt + k) * 0.45 for k in range(4))
        near = jnp.minimum(
            jnp.minimum(x - left, 1 - right - x), jnp.minimum(y - top, 1 - bottom - y)
        )
        shown = random(tables, i, j, salt + 4) < 0.4 + 0.4 * spot.share
        inside = jnp.where(shown, _edge(near, spot.fine * scale), 0.0)
        cell = jnp.where(inside > 0.5, random(tables, i, j, salt + 5), cell)
        return jnp.maximum(mask, inside), cell

    nothing = jnp.zeros_like(spot.x)
    mask, cell = jax.lax.fori_loop(0, 3, add, (nothing, nothing))
    return Pattern(mask, cell, 0.5)


def _text(spot: Spot, tables) -> Pattern:
    """Lines of strokes with gaps, like words."""
    i, j, x, y = _split(spot.x * 3, spot.y)
    word = random(tables, i >> 2, j, 1) < 0.8
    line = random(tables, j >> 1, 0, 2) < 0.9
    k, m, _, _ = _split(spot.x * 12, spot.y * 6)
    stroke = random(tables, k, m, 3) < 0.35 + 0.4 * spot.share
    tall = jnp.abs(y - 0.5) < 0.3
    mask = jnp.where(word & line & stroke & tall & (x > 0.12), 1.0, 0.0)
    fade = jnp.clip(2 - spot.fine * 8, 0, 1)
    return Pattern(mask * fade, random(tables, j // 7, 0, 4), 0.25)


def _voronoi(spot: Spot, tables) -> Pattern:
    """Cells around scattered points, with seams between them."""
    i, j, x, y = _split(spot.x, spot.y)

    def compare(number, nearest):
        first, second, cell = nearest
        a, b = number // 3 - 1, number % 3 - 1
        across = x - a - random(tables, i + a, j + b, 1)
        down = y - b - random(tables, i + a, j + b, 2)
        far = length(across, down)
        nearer = far < first
        second = jnp.where(nearer, first, jnp.minimum(second, far))
        cell = jnp.where(nearer, random(tables, i + a, j + b, 3), cell)
        return jnp.where(nearer, far, first), second, cell

    start = jnp.full_like(x, 9), jnp.full_like(x, 9), jnp.zeros_like(x)
    first, second, cell = jax.lax.fori_loop(0, 9, compare, start)
    seam = 0.02 + 0.1 * spot.share
    return Pattern(_edge(second - first - seam, spot.fine), cell, 0.8)


def _rings(spot: Spot, tables) -> Pattern:
    """Rings around the centres of large cells, or a spiral."""
    i, j, x, y = _split(spot.x / 5, spot.y / 5)
    x, y = x - 0.5, y - 0.5
    rate = 4 + 12 * spot.share
    spiral = jnp.where(random(tables, i, j) < 0.5, jnp.arctan2(y, x) / (2 * jnp.pi), 0.0)
    part = length(x, y) * rate + spiral
    band = jnp.floor(part)
    distance = 0.25 - jnp.abs(part - band - 0.5)
    mask = _edge(distance, spot.fine * rate / 5)
    return Pattern(mask, random(tables, band.astype(jnp.int32), i + j), 0.5)


def _marble(spot: Spot, tables) -> Pattern:
    wave = jnp.sin(spot.x * (4 + 8 * spot.share) + spot.warp * 2.5)
    cell = jnp.full_like(wave, random(tables, 0, 0))
    return Pattern(1 - jnp.sqrt(jnp.abs(wave)), cell, 0.3)


def _triangles(spot: Spot, tables) -> Pattern:
    i, j, x, y = _split(spot.x - 0.577 * spot.y, 1.155 * spot.y)
    upper = x + y > 1
    mask = jnp.where(upper, _edge(jnp.abs(x + y - 1), spot.fine * 2), 0.0)
    return Pattern(mask, random(tables, 2 * i + upper, j), 0.5)


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


# Patterns that noise bends: the noise's texels per cell along x and y, and by which a pixel's size
# is multiplied.
WARPS = {"wood": (6.0, 0.7, 6.0), "blotches": (24.0, 24.0, 24.0), "marble": (10.0, 10.0, 10.0)}


def paint(looks, owner: Int[Array, "P"], shown, tables, x: Pixels, y: Pixels, pixel: Pixels):
    """Red, green and blue of pixels.

    x and y are positions on the surface and `pixel` is what a pixel covers, all in metres. Only the
    patterns of the pixels in `shown` are painted.
    """
    look = of_pixels(looks, owner)
    cell_x = x * look.to_cells[0, 0] + y * look.to_cells[1, 0] + look.shift[0]
    cell_y = x * look.to_cells[0, 1] + y * look.to_cells[1, 1] + look.shift[1]
    fine = pixel * look.cells_per_metre
    warp = _warp(tables, look.pattern, cell_x, cell_y, fine)
    spot = Spot(cell_x, cell_y, fine, look.share, warp)
    mask, cell = jnp.zeros_like(fine), jnp.zeros_like(fine)
    present = any_of(jnp.where(shown, look.pattern, 0))
    for number, pattern in enumerate(PATTERNS.values()):
        if pattern is _plain:  # which has no foreground
            continue
        draw = partial(_draw, pattern, look.pattern == number, spot, tables)
        mask, cell = jax.lax.cond(present[number], draw, _keep, mask, cell)
    pick = 1 + jnp.minimum((cell * (look.count - 1)).astype(jnp.int32), look.count - 2)
    pick = jnp.maximum(pick, 1)
    grain = 1 + _grain(look, tables, x, y, pixel)
    colours = looks.colours.reshape(-1, 3)
    count = looks.colours.shape[1]
    painted = []
    for channel in range(3):
        back = _read(colours[:, channel], owner * count)
        front = _read(colours[:, channel], owner * count + pick)
        painted.append((back + (front - back) * mask) * grain)
    return tuple(painted)


def _draw(pattern: Callable, own: Bool[Array, "P"], spot: Spot, tables, mask: Pixels, cell: Pixels):
    """Masks and cells with those of a pattern in its own pixels."""
    drawn = pattern(spot, tables)
    faded = drawn.mean + (drawn.mask - drawn.mean) * jnp.clip(1.5 - spot.fine * 2, 0, 1)
    return jnp.where(own, faded, mask), jnp.where(own, drawn.cell, cell)


def _keep(mask: Pixels, cell: Pixels) -> tuple[Pixels, Pixels]:
    return mask, cell


def of_pixels(fields, owner: Int[Array, "P"]):
    """The entries of each pixel's solid in all fields, with the pixels as their last axis."""

    def read(field):
        return jnp.moveaxis(field, 0, -1).at[..., owner].get(mode="promise_in_bounds")

    return jax.tree.map(read, fields)


def any_of(numbers: Int[Array, "P"]) -> Bool[Array, "32"]:
    """Which of the numbers 0 to 31 some pixels have. One pass, not one for each number."""
    bits = jax.lax.reduce(1 << numbers, jnp.int32(0), jax.lax.bitwise_or, (0,))
    return (bits >> jnp.arange(32, dtype=jnp.int32)) & 1 == 1


def _warp(tables, pattern: Int[Array, "P"], x: Pixels, y: Pixels, fine: Pixels) -> Pixels:
    """The noise of patterns that are bent by it."""
    scales = np.zeros((3, len(PATTERNS)), np.float32)
    for name, scale in WARPS.items():
        scales[:, list(PATTERNS).index(name)] = scale
    across, down, size = (_read(jnp.asarray(row), pattern) for row in scales)

    def bend():
        return noise(tables, x * across, y * down, fine * size)

    return jax.lax.cond(jnp.any(size > 0), bend, lambda: jnp.zeros_like(x))


def _grain(look, tables, x: Pixels, y: Pixels, pixel: Pixels) -> Pixels:
    x, y, fine = x / look.texel, y / look.texel, pixel / look.texel
    total = look.noise[0] * noise(tables, x + 7, y + 7, fine)

    def with_slow():
        slow = 0.07
        return total + look.noise[1] * noise(tables, x * slow, y * slow, fine * slow)

    total = jax.lax.cond(jnp.any(look.noise[1] > 0), with_slow, lambda: total)
    return jnp.clip(total, -0.9, 1.5)
