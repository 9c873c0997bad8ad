"""Units of coarse depth maps, and the fit from true depth to them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.config import Prior
from urgt_jax.data.samples import MIN_DEPTH, valid_depth


class PriorUnit(NamedTuple):
    """The affine map from the refiner's unit to a coarse map's own: own = unit x scale + low."""

    low: float
    scale: float

    def restore(self, values: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """A map in the refiner's unit, converted to the coarse map's own."""
        return (values * np.float32(self.scale) + np.float32(self.low)).astype(np.float32)


def to_network_unit(
    coarse: Float[np.ndarray, "*S"], prior: Prior, max_depth: float
) -> tuple[Float[np.ndarray, "*S"], PriorUnit]:
    """The map in the refiner's unit: disparity stretched to [0, 1], or metres over max_depth."""
    if prior.kind == "depth":
        unit = PriorUnit(0.0, max_depth)
    else:
        low = float(coarse.min())
        high = float(coarse.max())
        unit = PriorUnit(low, max(high - low, 1e-8))
    values = (coarse - np.float32(unit.low)) / np.float32(unit.scale)
    return values.astype(np.float32), unit


def encode_disparity(
    disparity: Float[np.ndarray, "*S"], prior: Prior, max_depth: float
) -> Float[np.ndarray, "*S"]:
    """A map of disparity (1 / metres) in the refiner's unit."""
    coarse = disparity
    if prior.kind == "depth":
        coarse = 1 / np.maximum(disparity, 1 / max_depth)
    values, _ = to_network_unit(coarse, prior, max_depth)
    return values


class DisparityFit(NamedTuple):
    """From true disparity (1 / metres) to coarse disparity, the same for a whole image."""

    scale: float
    shift: float


def fit_disparity(
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    coarse: Float[np.ndarray, "H W"],
) -> DisparityFit:
    """Least squares fit of 1/depth to the coarse disparity of the whole image."""
    known = valid_depth(depth, valid)
    count = max(int(known.sum()), 1)
    disparity = np.where(known, 1 / np.maximum(depth, MIN_DEPTH), 0).astype(np.float64)
    mean = disparity.sum() / count
    coarse_mean = (coarse * known).sum(dtype=np.float64) / count
    variance = ((disparity - mean) ** 2 * known).sum()
    covariance = ((disparity - mean) * (coarse - coarse_mean) * known).sum()
    scale = float(covariance / variance) if variance > 0 else 0.0
    return DisparityFit(scale, float(coarse_mean - scale * mean))


def depth_target(
    depth: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    fit: DisparityFit,
    kind: str,
    max_depth: float,
) -> Float[np.ndarray, "h w"]:
    """True depth of a window in the refiner's unit, 0 where it is unknown."""
    if kind == "depth":
        target = depth / np.float32(max_depth)
    else:
        disparity = 1 / np.maximum(depth, MIN_DEPTH).astype(np.float64)
        target = fit.scale * disparity + fit.shift
    return np.where(valid, target, 0).astype(np.float32)
