"""Typed priors: what a coarse depth map means, and how scenes' truth is degraded into one.

Everything here is numpy, since it runs in workers that must not touch an accelerator.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from urgt_jax.config import Prior
from urgt_jax.pictures import unit

NEAREST = 1e-3  # metres; what is nearer is no depth (PatchFusion's valid mask)


def shrink(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area average of a [H, W] float map."""
    return np.asarray(Image.fromarray(x, "F").resize(size[::-1], Image.Resampling.BOX))


def enlarge(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear enlargement of a [H, W] float map, pixel centres at one half."""
    return np.asarray(Image.fromarray(x, "F").resize(size[::-1], Image.Resampling.BILINEAR))


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Noise of unit deviation whose features are a `cells`-th of the picture."""
    knots = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(knots, "F").resize(size[::-1], Image.Resampling.BICUBIC))


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a [H, W] map, borders repeated."""
    reach = max(1, int(3 * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], "edge")
        n = x.shape[axis]
        x = sum(t * np.take(pad, np.arange(i, i + n), axis) for i, t in enumerate(taps))
    return x


def median(x: np.ndarray) -> np.ndarray:
    """Median over 3 x 3 pixels: what is thinner than two pixels is lost."""
    pad = np.pad(x, 1, "edge")
    h, w = x.shape
    return np.median([pad[i : i + h, j : j + w] for i in range(3) for j in range(3)], 0)


def _warp(x: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The [H, W] map sampled bilinearly where the [2, H, W] flow points, in pixels."""
    h, w = x.shape
    row = np.clip(np.arange(h)[:, None] + flow[0], 0, h - 1)
    col = np.clip(np.arange(w)[None] + flow[1], 0, w - 1)
    top, left = np.minimum(row.astype(int), h - 2), np.minimum(col.astype(int), w - 2)
    down, right = row - top, col - left
    upper = x[top, left] * (1 - right) + x[top, left + 1] * right
    lower = x[top + 1, left] * (1 - right) + x[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def degrade(
    depth: np.ndarray,
    normal: np.ndarray,
    valid: np.ndarray,
    prior: Prior,
    rng: np.random.Generator,
    max_depth: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Coarse depth (in the prior's unit) and unit normals as a small network would see the picture.

    Low resolution, thin things lost, edges displaced and blurred, noise, low-frequency distortion.
    """
    size = depth.shape
    factor = np.exp(rng.uniform(*np.log(prior.lines))) / size[0]
    small = tuple(min(max(3, round(n * factor)), n) for n in size)
    flow = [prior.displace * blur(rng.standard_normal(small), 2.0) * 7.0 for _ in range(2)]
    flow = np.stack(flow)  # blurring by 2 pixels leaves about a seventh of the deviation
    sigma = rng.uniform(*prior.blur)

    def soften(x):
        x = median(_warp(shrink(x.astype(np.float32), small), flow))
        return blur(x, sigma).astype(np.float32)

    disparity = soften(np.where(valid, 1 / np.maximum(depth, 1e-3), 1 / max_depth))
    wave = smooth_noise(rng, small, int(rng.integers(2, 5)))
    # What learns from disparity errs by as much in the distance as nearby, not in proportion.
    grain = prior.grain * disparity.mean() * rng.standard_normal(small)
    disparity = np.maximum(disparity * np.exp(prior.distort * wave) + grain, 0)
    disparity = enlarge(disparity.astype(np.float32), size)
    coarse = np.stack([soften(normal[..., i]) for i in range(3)], -1)
    tilt = np.stack([smooth_noise(rng, small, 3) for _ in range(2)], -1)
    coarse[..., :2] += np.float32(np.radians(prior.tilt)) * tilt
    rough = rng.standard_normal(coarse.shape, np.float32)
    coarse += np.float32(np.radians(prior.rough)) * rough
    coarse = np.stack([enlarge(coarse[..., i], size) for i in range(3)], -1)
    return encode(disparity, prior, max_depth), unit(coarse)


class Unit(NamedTuple):
    """How a coarse map in its own unit was brought into the network's."""

    low: float
    scale: float

    def back(self, x: np.ndarray) -> np.ndarray:
        """A map of the network in the coarse map's own unit."""
        return (x * np.float32(self.scale) + np.float32(self.low)).astype(np.float32)


def normalise(coarse: np.ndarray, prior: Prior, max_depth: float) -> tuple[np.ndarray, Unit]:
    """The map as the network takes it: disparity stretched to [0, 1], metres over max_depth."""
    if prior.kind == "depth":
        unit = Unit(0.0, max_depth)
    else:
        low, high = float(coarse.min()), float(coarse.max())
        unit = Unit(low, max(high - low, 1e-8))
    return ((coarse - np.float32(unit.low)) / np.float32(unit.scale)).astype(np.float32), unit


def encode(disparity: np.ndarray, prior: Prior, max_depth: float) -> np.ndarray:
    """A disparity map, 1 / metres, as the network takes it."""
    metric = 1 / np.maximum(disparity, 1 / max_depth)
    return normalise(metric if prior.kind == "depth" else disparity, prior, max_depth)[0]


class Fit(NamedTuple):
    """From true disparity in 1/metres to the unit of a coarse map, the same all over a picture."""

    scale: float
    shift: float


def fit(
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    coarse: Float[np.ndarray, "H W"],
) -> Fit:
    """Least squares fit of 1/depth onto the coarse disparity of the whole picture."""
    known = valid & (depth > NEAREST)
    count = max(int(known.sum()), 1)
    disparity = np.where(known, 1 / np.maximum(depth, NEAREST), 0).astype(np.float64)
    mean, goal = disparity.sum() / count, (coarse * known).sum(dtype=np.float64) / count
    spread = ((disparity - mean) ** 2 * known).sum()
    shared = ((disparity - mean) * (coarse - goal) * known).sum()
    scale = float(shared / spread) if spread > 0 else 0.0
    return Fit(scale, float(goal - scale * mean))


def target(
    depth: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    found: Fit,
    kind: str,
    max_depth: float,
) -> Float[np.ndarray, "h w"]:
    """True depth of a window in the network's unit, 0 where it is unknown."""
    if kind == "depth":
        return np.where(valid, depth / np.float32(max_depth), 0).astype(np.float32)
    disparity = 1 / np.maximum(depth, NEAREST).astype(np.float64)
    return np.where(valid, found.scale * disparity + found.shift, 0).astype(np.float32)
