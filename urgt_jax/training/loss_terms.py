"""The paper's loss terms: masked means in float32 whose gradients stay finite on empty masks.

Each takes what it divides by, where that is more than its own mask holds: a batch that is worked on
in parts has the same loss as a whole.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.images.geometry import unit_vectors

STEPS = (1, 2, 4, 8)  # pixels; MiDaS's scales
FLOOR = 0.1  # added to what a relative error is divided by, in the network's unit
Count = Int[Array, ""] | None


def masked_mean(
    x: Float[Array, "*B"], mask: Bool[Array, "*B"], count: Count = None
) -> Float[Array, ""]:
    """Sum over the pixels of the mask by their number, or by `count`; 0 where there are none."""
    kept = jnp.where(mask, x.astype(jnp.float32), 0.0)
    return kept.sum() / jnp.maximum(mask.sum() if count is None else count, 1)


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
    """Mean absolute error over target + FLOOR: the median at edges, and far as much as near."""
    return masked_mean(relative_error(pred, target), mask, count)


def relative_error(pred: Float[Array, "*B"], target: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Absolute error over target + FLOOR."""
    return jnp.abs(pred - target) / (jnp.abs(target) + FLOOR)


def gradient_matching(
    pred: Float[Array, "*B H W"],
    target: Float[Array, "*B H W"],
    mask: Bool[Array, "*B H W"],
    counts: Int[Array, "8"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute step of the residual over 1, 2, 4 and 8 pixels, as in MiDaS."""
    residual, counts = (
        jnp.where(mask, pred - target, 0.0),
        count_pairs(mask) if counts is None else counts,
    )
    total = jnp.zeros((), jnp.float32)
    for (step, axis), count in zip(_ways(mask), counts, strict=True):
        first, second = _pair(residual, step, axis)
        known = jnp.logical_and(*_pair(mask, step, axis))
        total = total + masked_mean(jnp.abs(second - first), known, count)
    return total / (2 * len(STEPS))


def count_pairs(mask: Bool[Array, "*B H W"]) -> Int[Array, "8"]:
    """How many pairs of valid pixels gradient matching divides by, for each way."""
    return jnp.stack([jnp.logical_and(*_pair(mask, *way)).sum() for way in _ways(mask)])


def _ways(mask) -> list[tuple[int, int]]:
    """Steps and axes along which the maps have pairs at all."""
    return [(step, axis) for step in STEPS for axis in (-2, -1) if mask.shape[axis] > step]


def _pair(x, step: int, axis: int):
    """The map without its last and without its first `step` rows or columns."""
    if axis == -2:
        return x[..., :-step, :], x[..., step:, :]
    return x[..., :-step], x[..., step:]


def angular_loss(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean of 1 - cos of the angle to the target; the prediction need not be of unit length."""
    return masked_mean(1.0 - jnp.sum(unit_vectors(pred) * target, -1), mask, count)


def alignment_loss(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean squared distance of the unit normals; the prediction need not be of unit length."""
    return masked_mean(_squared_distance(pred, target), mask, count)


def mean_normal_distance(
    pred: Float[Array, "*B 3"],
    target: Float[Array, "*B 3"],
    mask: Bool[Array, "*B"],
    count: Count = None,
) -> Float[Array, ""]:
    """Mean distance of the unit normals; the prediction need not be of unit length."""
    return masked_mean(normal_distance(pred, target), mask, count)


def normal_distance(pred: Float[Array, "*B 3"], target: Float[Array, "*B 3"]) -> Float[Array, "*B"]:
    """Distance of the unit normals: for small angles, the angle in radians."""
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
    """Mean of confidence x error - log confidence, least where confidence is 1 / expected error.

    As VGGT trains confidences (Wang et al., CVPR 2025), but here they leave the error as it is.
    """
    error = jax.lax.stop_gradient(error)
    return masked_mean(confidence * error - jnp.log(confidence), mask, count)
