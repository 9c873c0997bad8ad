"""The terms of the loss: masked means in float32, with finite gradients even on empty masks.

Every term takes the `count` that its sum is divided by (default: the pixels in the mask). With the
count of a whole batch, the terms of its parts add up to the term of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.images.geometry import unit_vectors

GRADIENT_OFFSETS = (1, 2, 4, 8)  # pixels, the scales of MiDaS
RELATIVE_ERROR_OFFSET = 0.1  # added to the denominator of a relative error, in the network's unit

Count = Int[Array, ""] | None


def masked_mean(
    x: Float[Array, "*B"], mask: Bool[Array, "*B"], count: Count = None
) -> Float[Array, ""]:
    """The sum over the pixels in the mask, divided by `count`; 0 for an empty mask."""
    if count is None:
        count = mask.sum()
    total = jnp.where(mask, x.astype(jnp.float32), 0.0).sum()
    return total / jnp.maximum(count, 1)


def mean_squared_error(
    pred: Float[Array, "*B"],
    target: Float[Array, "*B"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean squared error."""
    return masked_mean((pred - target) ** 2, mask, count)


def mean_relative_error(
    pred: Float[Array, "*B"],
    target: Float[Array, "*B"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean relative error.

    Its minimum at an uncertain edge is the median, which stays sharp, and distant surfaces count
    as much as near ones.
    """
    return masked_mean(relative_error(pred, target), mask, count)


def relative_error(pred: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Absolute error divided by target + RELATIVE_ERROR_OFFSET."""
    return jnp.abs(pred - target) / (jnp.abs(target) + RELATIVE_ERROR_OFFSET)


def gradient_matching(
    pred: Float[Array, "*B H W"],
    target: Float[Array, "*B H W"],
    mask: Bool[Array, "*B H W"],
    counts: Int[Array, "G"] | None = None,
) -> Float[Array, ""]:
    """Absolute differences of the residual between pixels 1, 2, 4 and 8 apart, along x and y.

    Each of the eight is a mean over pairs, and they are summed as in MiDaS (Ranftl et al., TPAMI
    2020). `counts` are those of `count_pairs`.
    """
    if counts is None:
        counts = count_pairs(mask)
    residual = jnp.where(mask, pred - target, 0.0)
    total = jnp.zeros((), jnp.float32)
    for (offset, axis), count in zip(_pair_offsets(mask), counts, strict=True):
        first, second = _pairs(residual, offset, axis)
        both_valid = jnp.logical_and(*_pairs(mask, offset, axis))
        total = total + masked_mean(jnp.abs(second - first), both_valid, count)
    return total


def count_pairs(mask: Bool[Array, "*B H W"]) -> Int[Array, "G"]:
    """The numbers of pairs of valid pixels that gradient matching averages over."""
    counts = []
    for offset, axis in _pair_offsets(mask):
        both_valid = jnp.logical_and(*_pairs(mask, offset, axis))
        counts.append(both_valid.sum())
    return jnp.stack(counts)


def _pair_offsets(mask: Bool[Array, "*B H W"]) -> list[tuple[int, int]]:
    """The (offset, axis) for which a map of this size has pairs of pixels."""
    pairs = []
    for offset in GRADIENT_OFFSETS:
        for axis in (-2, -1):
            if mask.shape[axis] > offset:
                pairs.append((offset, axis))
    return pairs


def _pairs(x: Array, offset: int, axis: int) -> tuple[Array, Array]:
    """All pixels that have one `offset` rows or columns further on, and those pixels."""
    if axis == -2:
        return x[..., :-offset, :], x[..., offset:, :]
    return x[..., :-offset], x[..., offset:]


def angular_loss(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean of 1 - cos of the angle to the target; predictions are normalised first."""
    cosine = jnp.sum(unit_vectors(pred) * target, -1)
    return masked_mean(1.0 - cosine, mask, count)


def alignment_loss(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean squared distance of the unit normals; predictions are normalised first."""
    return masked_mean(_squared_distance(pred, target), mask, count)


def mean_normal_distance(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean distance of the unit normals; predictions are normalised first."""
    return masked_mean(normal_distance(pred, target), mask, count)


def normal_distance(pred: Float[Array, "*B 3"], target: Float[Array, "*B 3"]) -> Float[Array, "*B"]:
    """Distance of the unit normals, which for small angles is the angle in radians."""
    return jnp.sqrt(_squared_distance(pred, target) + 1e-12)


def _squared_distance(
    pred: Float[Array, "*B 3"], target: Float[Array, "*B 3"]
) -> Float[Array, "*B"]:
    return jnp.sum((unit_vectors(pred) - target) ** 2, -1)


def confidence_loss(
    confidence: Float[Array, "*B"],
    error: Float[Array, "*B"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean of confidence * error - log(confidence), minimal where confidence = 1 / expected error.

    This is VGGT's loss of confidences (Wang et al., CVPR 2025), except that no gradient flows to
    the error.
    """
    error = jax.lax.stop_gradient(error)
    return masked_mean(confidence * error - jnp.log(confidence), mask, count)
