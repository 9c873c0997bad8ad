"""What a coarse depth map means: its unit, and the fit from true depth to it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.config import Prior
from urgt_jax.data.samples import MIN_DEPTH, valid_depth


class PriorUnit(NamedTuple):
    """How a coarse map in its own unit was brought into the network's."""

    low: float
    scale: float

    def restore(self, x: np.ndarray) -> np.ndarray:
        """A map of the network in the coarse map's own unit."""
        return (x * np.float32(self.scale) + np.float32(self.low)).astype(np.float32)


def to_network_unit(
    coarse: np.ndarray, prior: Prior, max_depth: float
) -> tuple[np.ndarray, PriorUnit]:
    """The map as the network takes it: disparity stretched to [0, 1], metres over max_depth."""
    if prior.kind == "depth":
        unit = PriorUnit(0.0, max_depth)
    else:
        low, high = float(coarse.min()), float(coarse.max())
        unit = PriorUnit(low, max(high - low, 1e-8))
    return ((coarse - np.float32(unit.low)) / np.float32(unit.scale)).astype(np.float32), unit


def encode_disparity(disparity: np.ndarray, prior: Prior, max_depth: float) -> np.ndarray:
    """A disparity map, 1 / metres, as the network takes it."""
    metric = 1 / np.maximum(disparity, 1 / max_depth)
    return to_network_unit(metric if prior.kind == "depth" else disparity, prior, max_depth)[0]


class DisparityFit(NamedTuple):
    """From true disparity in 1/metres to the unit of a coarse map, the same all over a picture."""

    scale: float
    shift: float


def fit_disparity(
    depth: Float[np.ndarray, "H W"],
    valid: Bool[np.ndarray, "H W"],
    coarse: Float[np.ndarray, "H W"],
) -> DisparityFit:
    """Least squares fit of 1/depth onto the coarse disparity of the whole picture."""
    known = valid_depth(depth, valid)
    count = max(int(known.sum()), 1)
    disparity = np.where(known, 1 / np.maximum(depth, MIN_DEPTH), 0).astype(np.float64)
    mean, goal = disparity.sum() / count, (coarse * known).sum(dtype=np.float64) / count
    spread = ((disparity - mean) ** 2 * known).sum()
    shared = ((disparity - mean) * (coarse - goal) * known).sum()
    scale = float(shared / spread) if spread > 0 else 0.0
    return DisparityFit(scale, float(goal - scale * mean))


def depth_target(
    depth: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    found: DisparityFit,
    kind: str,
    max_depth: float,
) -> Float[np.ndarray, "h w"]:
    """True depth of a window in the network's unit, 0 where it is unknown."""
    if kind == "depth":
        return np.where(valid, depth / np.float32(max_depth), 0).astype(np.float32)
    disparity = 1 / np.maximum(depth, MIN_DEPTH).astype(np.float64)
    return np.where(valid, found.scale * disparity + found.shift, 0).astype(np.float32)
