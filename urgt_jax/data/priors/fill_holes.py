"""Fills unknown pixels of a map from the known ones around them."""

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.priors.filters import enlarge


def fill_holes(
    disparity: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """Disparity with its holes filled from around them, by averages at ever coarser scales."""
    known = valid & np.isfinite(disparity)
    if known.all() or not known.any():
        return np.where(known, disparity, 0).astype(np.float32)
    total = np.where(known, disparity, 0).astype(np.float32)
    return _filled(total, known.astype(np.float32))


def _filled(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted sums over their weights; where there is no weight, from the next scale."""
    mean = total / np.maximum(weight, np.float32(1e-12))
    if (weight > 0).all():
        return mean
    half = tuple((n + 1) // 2 for n in weight.shape)
    pads = [(0, 2 * n - m) for n, m in zip(half, weight.shape, strict=True)]
    fold = lambda x: np.pad(x, pads).reshape(half[0], 2, half[1], 2).mean((1, 3))  # noqa: E731
    wide = enlarge(_filled(fold(total), fold(weight)), tuple(2 * n for n in half))
    return np.where(weight > 0, mean, wide[: weight.shape[0], : weight.shape[1]])
