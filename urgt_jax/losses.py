"""The paper's loss terms: masked means in float32 whose gradients stay finite on empty masks."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from urgt_jax.geometry import unit


def masked_mean(x: Float[Array, "*B"], mask: Bool[Array, "*B"]) -> Float[Array, ""]:
    """Mean over the pixels of the mask, 0 where there are none."""
    kept = jnp.where(mask, x.astype(jnp.float32), 0.0)
    return kept.sum() / jnp.maximum(mask.sum(), 1)


def mse(pred: Float[Array, "*B"], target: Float[Array, "*B"], mask: Bool[Array, "*B"]):
    """Mean squared error."""
    return masked_mean((pred - target) ** 2, mask)


def gradient_matching(
    pred: Float[Array, "*B H W"], target: Float[Array, "*B H W"], mask: Bool[Array, "*B H W"]
) -> Float[Array, ""]:
    """Mean absolute step of the residual over 1, 2, 4 and 8 pixels, as in MiDaS."""
    residual = jnp.where(mask, pred - target, 0.0)
    total = jnp.zeros((), jnp.float32)
    for step in (1, 2, 4, 8):
        for axis in (-2, -1):
            if residual.shape[axis] <= step:
                continue
            first, second = _pair(residual, step, axis)
            known = jnp.logical_and(*_pair(mask, step, axis))
            total = total + masked_mean(jnp.abs(second - first), known)
    return total / 8


def _pair(x, step: int, axis: int):
    """The map without its last and without its first `step` rows or columns."""
    if axis == -2:
        return x[..., :-step, :], x[..., step:, :]
    return x[..., :-step], x[..., step:]


def angular(
    pred: Float[Array, "*B 3"], target: Float[Array, "*B 3"], mask: Bool[Array, "*B"]
) -> Float[Array, ""]:
    """Mean of 1 - cos of the angle to the target; the prediction need not be of unit length."""
    return masked_mean(1.0 - jnp.sum(unit(pred) * target, -1), mask)


def alignment(
    pred: Float[Array, "*B 3"], target: Float[Array, "*B 3"], mask: Bool[Array, "*B"]
) -> Float[Array, ""]:
    """Mean squared distance of the unit normals; the prediction need not be of unit length."""
    return masked_mean(jnp.sum((unit(pred) - target) ** 2, -1), mask)
