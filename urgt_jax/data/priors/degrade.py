"""Degrades true depth and normals into coarse maps with the errors of depth networks.

Real networks' maps of four pictures were compared with measured depth (docs/priors.md has the
figures). They have no grain. Their edges are a network's pixel or two wide and about one pixel off.
Thin things are missing or fat. Most of the error is broad: scale and shift drift from surface to
surface, and planes are smooth but tilted.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.config import Prior
from urgt_jax.data.priors.filters import blur, enlarge, shrink, smooth_noise, warp
from urgt_jax.data.priors.units import encode_disparity
from urgt_jax.data.samples import MIN_DEPTH
from urgt_jax.images.geometry import unit_normals

FINE = 2  # pixels per coarse pixel and side at which objects are moved and bent
CELL = 8  # coarse pixels over which edges are displaced alike
WAVES = 16  # waves that a drift is the sum of
SHIFT = 0.5  # deviation of a surface's shift, share of that of its scale


class CoarseMaps(NamedTuple):
    """Disparity (1 / metres) and normals of any length."""

    disparity: Float[np.ndarray, "h w"]
    normal: Float[np.ndarray, "h w 3"]

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> "CoarseMaps":
        """The maps with the same change of disparity and of each normal component."""
        normal = [change(self.normal[..., i]).astype(np.float32) for i in range(3)]
        return CoarseMaps(change(self.disparity).astype(np.float32), np.stack(normal, -1))


def degrade(
    depth: Float[np.ndarray, "H W"],
    normal: Float[np.ndarray, "H W 3"],
    valid: Bool[np.ndarray, "H W"],
    prior: Prior,
    rng: np.random.Generator,
    max_depth: float,
    intrinsics: Float[np.ndarray, "4"],
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W 3"]]:
    """Coarse depth in the refiner's unit, and unit normals.

    Invalid pixels count as sky at max_depth metres, so holes must be filled first (`fill_holes`).
    """
    truth = np.where(valid, 1 / np.maximum(depth, MIN_DEPTH), 1 / max_depth).astype(np.float32)
    maps = CoarseMaps(truth, normal.astype(np.float32))
    if rng.random() >= prior.exact:
        maps = _degrade(maps, prior, rng, intrinsics)
    coarse_depth = encode_disparity(maps.disparity, prior, max_depth)
    return coarse_depth, unit_normals(maps.normal)


def _degrade(
    maps: CoarseMaps, prior: Prior, rng: np.random.Generator, intrinsics: Float[np.ndarray, "4"]
) -> CoarseMaps:
    """Maps of a lower resolution, with displaced, lost and fattened things that drift."""
    size = maps.disparity.shape
    lines = np.exp(rng.uniform(*np.log(prior.lines)))
    coarse = _scaled(size, lines / size[0])
    fine = _scaled(size, FINE * lines / size[0])
    maps = maps.each(lambda x: shrink(x, fine))
    if rng.random() < prior.thin:
        maps = _change_thin_things(maps, rng)
    maps = _displace_edges(maps, rng.uniform(*prior.displace), coarse, rng)
    maps = _drift(maps, rng.uniform(*prior.drift), rng.uniform(*prior.tilt), rng)
    sigma = rng.uniform(*prior.blur)
    maps = maps.each(lambda x: blur(shrink(x, coarse), sigma))
    noise = rng.uniform(*prior.noise) * maps.disparity.mean()
    disparity = maps.disparity + noise * rng.standard_normal(coarse, np.float32)
    maps = CoarseMaps(np.maximum(disparity, 0), maps.normal)
    if rng.random() < prior.from_depth:
        y_scale, x_scale = np.divide(coarse, size)
        of_coarse = intrinsics * [x_scale, y_scale, x_scale, y_scale]
        maps = maps._replace(normal=normals_of_disparity(maps.disparity, of_coarse))
    return maps.each(lambda x: enlarge(x, size))


def normals_of_disparity(
    disparity: Float[np.ndarray, "h w"], intrinsics: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "h w 3"]:
    """Unit normals towards the camera: 1/Z of a plane is a u + b v + c in pixels."""
    fx, fy, cx, cy = intrinsics
    height, width = disparity.shape
    b, a = np.gradient(blur(disparity, 1.0))
    u = np.arange(width) + 0.5 - cx
    v = np.arange(height)[:, None] + 0.5 - cy
    toward = np.stack([a * fx, b * fy, disparity - a * u - b * v], -1)
    return -unit_normals(toward.astype(np.float32))


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """The size times a factor: at least 3 pixels a side, and at most the size itself."""
    height, width = size
    return (
        min(max(3, round(height * factor)), height),
        min(max(3, round(width * factor)), width),
    )


def _change_thin_things(maps: CoarseMaps, rng: np.random.Generator) -> CoarseMaps:
    """Thin things are lost in some places of the picture, and fat in others."""
    size = maps.disparity.shape
    radius = round(FINE * rng.uniform(0.5, 2.0))
    where = smooth_noise(rng, size, 4)
    lost = extreme(extreme(maps, radius, -1), radius, 1)
    fat = extreme(maps, max(radius // 2, 1), 1)
    return _choose(where > 0.3, lost, _choose(where < -0.6, fat, maps))


def _choose(where: Bool[np.ndarray, "h w"], first: CoarseMaps, second: CoarseMaps) -> CoarseMaps:
    """The first maps where the mask is set, and the second elsewhere."""
    disparity = np.where(where, first.disparity, second.disparity)
    return CoarseMaps(disparity, np.where(where[..., None], first.normal, second.normal))


def _displace_edges(
    maps: CoarseMaps, deviation: float, coarse: tuple[int, int], rng: np.random.Generator
) -> CoarseMaps:
    """Every pixel shows its surroundings some coarse pixels away, neighbours about the same."""
    size = maps.disparity.shape
    deviation *= size[0] / coarse[0]
    cells = max(round(coarse[0] / CELL), 1)
    flow = np.stack([deviation * smooth_noise(rng, size, cells) for _ in range(2)])
    return maps.each(lambda x: warp(x, flow))


def _drift(maps: CoarseMaps, drift: float, tilt: float, rng: np.random.Generator) -> CoarseMaps:
    """Every surface has its own scale and shift of disparity, and its normals lean its own way.

    `drift` is the deviation of the logarithm of the scale, `tilt` that of the lean in degrees.
    """
    scale, shift = surface_noise(maps, rng)
    lean_x, lean_y = surface_noise(maps, rng)
    mean = maps.disparity.mean()
    disparity = maps.disparity * np.exp(drift * scale) + SHIFT * drift * mean * shift
    normal = maps.normal.copy()
    normal[..., 0] += np.radians(tilt) * lean_x
    normal[..., 1] += np.radians(tilt) * lean_y
    return CoarseMaps(np.maximum(disparity, 0).astype(np.float32), normal)


def surface_noise(
    maps: CoarseMaps, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Two independent noises of about unit deviation that are smooth on a surface.

    They change slowly over the picture, and faster with distance and with the direction of the
    normal, so that they jump where one thing ends and another begins.
    """
    height, width = maps.disparity.shape
    over_picture = 1 / (height * rng.uniform(0.2, 0.5))
    over_distance = 1 / rng.uniform(0.5, 1.5)
    over_direction = 1 / rng.uniform(0.6, 1.2)
    distance = np.log(np.maximum(maps.disparity, 1e-6))
    direction = unit_normals(maps.normal)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    first = np.zeros((height, width), np.float32)
    second = np.zeros((height, width), np.float32)
    for _ in range(WAVES):
        along_rows, along_columns = rng.normal(0, over_picture, 2).astype(np.float32)
        phase = rows * along_rows + columns * along_columns
        phase = phase + np.float32(rng.normal(0, over_distance)) * distance
        phase = phase + direction @ rng.normal(0, over_direction, 3).astype(np.float32)
        phase = phase + np.float32(rng.uniform(0, 2 * np.pi))
        first += np.cos(phase)
        second += np.sin(phase)
    unit = np.float32(np.sqrt(2 / WAVES))
    return first * unit, second * unit


def extreme(maps: CoarseMaps, radius: int, sign: int) -> CoarseMaps:
    """The nearest (sign 1) or farthest (-1) pixel in a square around each, with its normal."""
    best = sign * maps.disparity
    winner = np.arange(best.size).reshape(best.shape)
    for axis in (0, 1):
        pads = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        values = np.pad(best, pads, "edge")
        places = np.pad(winner, pads, "edge")
        for k in range(2 * radius + 1):
            rows = (slice(None),) * axis + (slice(k, k + best.shape[axis]),)
            better = values[rows] > best
            best = np.where(better, values[rows], best)
            winner = np.where(better, places[rows], winner)
    return CoarseMaps(sign * best, maps.normal.reshape(-1, 3)[winner])


STRENGTHS = {
    # A good depth network of today, which sees 518 lines of the picture.
    "weak": Prior(
        lines=(518, 518),
        blur=(0.5, 0.7),
        displace=(0.6, 1.2),
        thin=0.1,
        drift=(0.02, 0.04),
        tilt=(2, 4),
    ),
    # An older one, which sees 384 lines and loses thin things.
    "middle": Prior(
        lines=(384, 384),
        blur=(0.3, 0.5),
        displace=(0.8, 1.2),
        thin=0.5,
        drift=(0.04, 0.07),
        tilt=(4, 6),
    ),
    # A phone's depth sensor: 144 to 192 lines.
    "strong": Prior(
        lines=(144, 192),
        blur=(0.5, 0.8),
        displace=(0.8, 1.2),
        thin=1.0,
        drift=(0.07, 0.1),
        tilt=(6, 10),
    ),
}
