"""Degrades true depth and normals into coarse maps that mimic a small network's output."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from urgt_jax.config import Prior
from urgt_jax.data.priors.filters import (
    blur,
    enlarge,
    median,
    resize_with,
    shrink,
    smooth_noise,
    warp,
)
from urgt_jax.data.priors.units import encode_disparity
from urgt_jax.data.samples import MIN_DEPTH
from urgt_jax.images.geometry import unit_normals


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
    image: UInt8[np.ndarray, "H W 3"] | None = None,
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W 3"]]:
    """Coarse depth in the refiner's unit, and unit normals.

    Invalid pixels count as sky at max_depth metres, so holes must be filled first (`fill_holes`).
    """
    truth = np.where(valid, 1 / np.maximum(depth, MIN_DEPTH), 1 / max_depth).astype(np.float32)
    choices = [x for x in DEGRADATIONS if x is not _texture or image is not None]
    varied = prior.vary > 0 and rng.random() < prior.vary
    degradation = choices[rng.integers(len(choices))] if varied else _network
    lines = np.exp(rng.uniform(*np.log(prior.lines)))
    maps = degradation(_Draw(prior, rng, lines, image), CoarseMaps(truth, normal))
    coarse_depth = encode_disparity(np.maximum(maps.disparity, 0), prior, max_depth)
    return coarse_depth, unit_normals(maps.normal)


class _Draw(NamedTuple):
    """The random generator and settings of one image's degradation."""

    prior: Prior
    rng: np.random.Generator
    lines: float
    image: np.ndarray | None

    def one(self, name: str) -> float:
        """A value drawn from one of the prior's ranges."""
        return float(self.rng.uniform(*getattr(self.prior, name)))

    def small(self, size: tuple[int, int], times: float = 1.0) -> tuple[int, int]:
        """The size of a map with `times` the coarse map's number of lines."""
        factor = self.lines * times / size[0]
        return tuple(min(max(3, round(n * factor)), n) for n in size)


def _distorted(draw: _Draw, maps: CoarseMaps, grain: np.ndarray, rough: np.ndarray) -> CoarseMaps:
    """Maps with low-frequency errors, and with the given noise (unit deviation) at its strength."""
    size, rng = maps.disparity.shape, draw.rng
    wave = smooth_noise(rng, size, int(rng.integers(2, 5)))
    # A network trained on disparity has the same error near and far, not one in proportion.
    grain = draw.one("grain") * maps.disparity.mean() * grain
    disparity = maps.disparity * np.exp(draw.one("distort") * wave) + grain
    tilt = np.stack([smooth_noise(rng, size, 3) for _ in range(2)], -1)
    normal = maps.normal + np.float32(np.radians(draw.one("rough"))) * rough
    normal[..., :2] += np.float32(np.radians(draw.one("tilt"))) * tilt
    return CoarseMaps(np.maximum(disparity, 0).astype(np.float32), normal)


def _network(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """The usual degradation: low resolution, no thin structures, displaced edges, pixel noise."""
    size, rng = maps.disparity.shape, draw.rng
    small, displace = draw.small(size), draw.one("displace")
    # Blurring by 2 pixels leaves about a seventh of the deviation.
    flow = [displace * blur(rng.standard_normal(small), 2.0) * 7.0 for _ in range(2)]
    flow, sigma = np.stack(flow), draw.one("blur")
    maps = maps.each(lambda x: blur(median(warp(shrink(x, small), flow)), sigma))
    grain, rough = rng.standard_normal(small), rng.standard_normal((*small, 3), np.float32)
    return _distorted(draw, maps, grain, rough).each(lambda x: enlarge(x, size))


def _plain(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """A good map of low resolution: area averages, enlarged bicubically."""
    size = maps.disparity.shape
    small = draw.small(size)
    return maps.each(lambda x: resize_with(shrink(x, small), size, Image.Resampling.BICUBIC))


def _finely(
    draw: _Draw, maps: CoarseMaps, change: Callable[[CoarseMaps], CoarseMaps]
) -> CoarseMaps:
    """Maps that are changed and blurred at four times the coarse map's resolution."""
    size = maps.disparity.shape
    fine = draw.small(size, 4.0)
    step, sigma = fine[0] / draw.small(size)[0], draw.one("blur")
    maps = change(maps.each(lambda x: shrink(x, fine))).each(lambda x: blur(x, sigma * step))
    noise = [_correlated(draw.rng, fine, step * draw.rng.uniform(0.4, 1.0)) for _ in range(4)]
    maps = _distorted(draw, maps, noise[0] * 0.5, np.stack(noise[1:], -1) * 0.5)
    return maps.each(lambda x: enlarge(x, size))


def _correlated(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Noise of unit deviation, correlated over `sigma` pixels."""
    noise = blur(rng.standard_normal(size, np.float32), sigma)
    return noise / max(float(noise.std()), 1e-6)


def _smooth(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """Blur, with noise that is correlated over several pixels."""
    return _finely(draw, maps, lambda fine: fine)


def _bleeding(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """Objects that are too thick or too thin."""
    radius, sign = int(draw.rng.integers(1, 5)), draw.rng.choice([-1, 1])
    return _finely(draw, maps, lambda fine: extreme(fine, radius, sign))


def _missing(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """Missing objects in some regions: those smaller than a square and nearer than the rest."""
    radius = int(draw.rng.integers(4, 13))

    def change(fine: CoarseMaps) -> CoarseMaps:
        opened = extreme(extreme(fine, radius, -1), radius, 1)
        gone = smooth_noise(draw.rng, fine.disparity.shape, 5) > draw.rng.uniform(-0.8, 0.5)
        normal = np.where(gone[..., None], opened.normal, fine.normal)
        return CoarseMaps(np.where(gone, opened.disparity, fine.disparity), normal)

    return _finely(draw, maps, change)


def _blotchy(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """Piecewise constant maps: blocks of a coarse pixel, with few levels of disparity."""
    size, levels = maps.disparity.shape, int(draw.rng.integers(10, 40))
    small = draw.small(size)
    coarse = maps.each(lambda x: resize_with(shrink(x, small), size, Image.Resampling.NEAREST))
    low, high = coarse.disparity.min(), coarse.disparity.max()
    step = np.float32(max((high - low) / levels, 1e-8))
    disparity = np.round((coarse.disparity - low) / step) * step + low
    rough = np.radians(draw.one("rough")) * draw.rng.standard_normal((*small, 3))
    rough = [enlarge(rough[..., i].astype(np.float32), size) for i in range(3)]
    return CoarseMaps(disparity, coarse.normal + np.stack(rough, -1))


def _texture(draw: _Draw, maps: CoarseMaps) -> CoarseMaps:
    """The usual degradation, with some of the image's texture copied into disparity."""
    coarse, size = _network(draw, maps), maps.disparity.shape
    fine = draw.small(size, 4.0)
    light = shrink(draw.image.astype(np.float32).mean(-1) / 255, fine)
    detail = light - blur(light, 6.0)
    detail = detail * (draw.rng.uniform(-0.25, 0.25) / max(float(light.std()), 0.05))
    return coarse._replace(disparity=coarse.disparity * (1 + enlarge(detail, size)))


DEGRADATIONS = (_plain, _smooth, _bleeding, _blotchy, _texture, _missing)


def extreme(maps: CoarseMaps, radius: int, sign: int | np.integer) -> CoarseMaps:
    """The nearest (sign 1) or farthest (-1) pixel in a square around each, with its normal."""
    best, winner = sign * maps.disparity, np.arange(maps.disparity.size).reshape(maps[0].shape)
    for axis in (0, 1):
        pads = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        values, places = (np.pad(x, pads, "edge") for x in (best, winner))
        for k in range(2 * radius + 1):
            rows = (slice(None),) * axis + (slice(k, k + best.shape[axis]),)
            better = values[rows] > best
            best = np.where(better, values[rows], best)
            winner = np.where(better, places[rows], winner)
    return CoarseMaps(sign * best, maps.normal.reshape(-1, 3)[winner])


STRENGTHS = {
    # Like a good network's map with a hundred lines: soft edges, little is lost.
    "weak": Prior(
        lines=(96, 128),
        blur=(0.3, 0.5),
        displace=(0.1, 0.2),
        grain=(0.01, 0.02),
        rough=(2, 4),
        distort=(0.005, 0.01),
        tilt=(1, 2),
    ),
    # Half of that resolution, with noise that hides small steps of depth.
    "middle": Prior(
        lines=(48, 64),
        blur=(0.4, 0.6),
        displace=(0.2, 0.3),
        grain=(0.04, 0.07),
        rough=(5, 8),
        distort=(0.01, 0.02),
        tilt=(2, 4),
    ),
    # Only large objects are left, and their edges are off by half a coarse pixel.
    "strong": Prior(
        lines=(24, 32),
        blur=(0.5, 0.8),
        displace=(0.3, 0.5),
        grain=(0.1, 0.15),
        rough=(10, 15),
        distort=(0.02, 0.04),
        tilt=(4, 8),
    ),
}
