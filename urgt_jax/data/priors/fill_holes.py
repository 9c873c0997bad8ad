"""Fills unknown pixels of a map from the known ones around them."""

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.priors.filters import enlarge


def fill_holes(
    values: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """The map with its holes filled from the pixels around them, by averages at coarser scales."""
    known = valid & np.isfinite(values)
    total = np.where(known, values, 0).astype(np.float32)
    if known.all() or not known.any():
        return total
    return _fill(total, known.astype(np.float32))


def fill_channels(
    values: Float[np.ndarray, "H W C"], valid: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W C"]:
    """A map of several channels, such as normals, with its holes filled."""
    channels = [fill_holes(values[..., i], valid) for i in range(values.shape[-1])]
    return np.stack(channels, -1)


def _fill(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean, taken from the next coarser scale wherever the weight is 0."""
    mean = total / np.maximum(weight, np.float32(1e-12))
    if (weight > 0).all():
        return mean
    height, width = weight.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    pads = [(0, 2 * half[0] - height), (0, 2 * half[1] - width)]

    def halve(x: np.ndarray) -> np.ndarray:
        return np.pad(x, pads).reshape(half[0], 2, half[1], 2).mean((1, 3))

    coarser = _fill(halve(total), halve(weight))
    enlarged = enlarge(coarser, (2 * half[0], 2 * half[1]))
    return np.where(weight > 0, mean, enlarged[: weight.shape[0], : weight.shape[1]])
