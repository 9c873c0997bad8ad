"""Resizing of feature maps in JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

CUBIC_SLOPE = -0.75  # torch's coefficient of bicubic resampling


def resize(
    x: Float[Array, "*B H W C"], height: int, width: int, align_corners: bool = False
) -> Float[Array, "*B h w C"]:
    """Bilinear resampling without antialias; pixel centres at one half, or corners on corners."""
    if x.shape[-3] != height:
        x = _resize_axis(x, -3, height, align_corners)
    if x.shape[-2] != width:
        x = _resize_axis(x, -2, width, align_corners)
    return x


def resize_cubic(
    x: Float[Array, "*B H W C"], height: int, width: int, steps: tuple[float, float]
) -> Float[Array, "*B h w C"]:
    """Bicubic resampling without antialias, as torch does it.

    `steps` are the distances between new pixels along both axes, in old pixels.
    """
    x = _apply_matrix(_cubic_matrix(x.shape[-3], height, steps[0]), x, -3)
    return _apply_matrix(_cubic_matrix(x.shape[-2], width, steps[1]), x, -2)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize_axis(
    x: Float[Array, "..."], axis: int, size: int, align_corners: bool
) -> Float[Array, "..."]:
    """One axis resampled: by a matrix product, or by gathers on CPUs, where they are fast."""
    by_gather = partial(_resize_by_gather, axis=axis, size=size, align_corners=align_corners)
    by_matrix = partial(_resize_by_matrix, axis=axis, size=size, align_corners=align_corners)
    return jax.lax.platform_dependent(x, cpu=by_gather, default=by_matrix)


def _resize_axis_forward(x, axis: int, size: int, align_corners: bool):
    return _resize_axis(x, axis, size, align_corners), x.shape[axis]


def _resize_axis_backward(axis: int, size: int, align_corners: bool, old_size: int, gradient):
    # By matrix on CPUs too: the gradient of a gather is a scatter, which is slow everywhere.
    matrix = _linear_matrix(old_size, size, align_corners)
    return (_apply_matrix(matrix.T, gradient, axis),)


_resize_axis.defvjp(_resize_axis_forward, _resize_axis_backward)


def _resize_by_matrix(x: Array, axis: int, size: int, align_corners: bool) -> Array:
    return _apply_matrix(_linear_matrix(x.shape[axis], size, align_corners), x, axis)


def _resize_by_gather(x: Array, axis: int, size: int, align_corners: bool) -> Array:
    low, upper_weight = _neighbours(x.shape[axis], size, align_corners)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    trailing = -axis - 1  # axes after the resampled one
    upper_weight = upper_weight.astype(x.dtype).reshape(-1, *[1] * trailing)
    return jnp.take(x, low, axis) * (1 - upper_weight) + jnp.take(x, high, axis) * upper_weight


def _apply_matrix(
    matrix: Float[np.ndarray, "new old"], x: Float[Array, "..."], axis: int
) -> Float[Array, "..."]:
    """The product of the matrix with an axis of x, the last but two (-3) or the last but one."""
    subscripts = "oi,...iwc->...owc" if axis == -3 else "oi,...hic->...hoc"
    return jnp.einsum(subscripts, matrix.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _neighbours(old_size: int, new_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """The lower neighbour of each new pixel, and the weight of the upper one."""
    new = np.arange(new_size)
    if align_corners:
        position = new * ((old_size - 1) / max(new_size - 1, 1))
    else:
        position = np.clip((new + 0.5) * (old_size / new_size) - 0.5, 0, old_size - 1)
    low = np.minimum(position.astype(np.int32), max(old_size - 2, 0))
    return low, position - low


def _linear_matrix(
    old_size: int, new_size: int, align_corners: bool
) -> Float[np.ndarray, "new old"]:
    """The weights of both neighbours of each new pixel."""
    low, upper_weight = _neighbours(old_size, new_size, align_corners)
    high = np.minimum(low + 1, old_size - 1)
    new = np.arange(new_size)
    matrix = np.zeros((new_size, old_size), np.float32)
    matrix[new, high] = upper_weight
    matrix[new, low] += 1 - upper_weight
    return matrix


def _cubic_matrix(old_size: int, new_size: int, step: float) -> Float[np.ndarray, "new old"]:
    """The weights of the four neighbours of each new pixel, with the border repeated."""
    a = CUBIC_SLOPE
    new = np.arange(new_size)
    position = (new + 0.5) * step - 0.5
    low = np.floor(position).astype(int)
    matrix = np.zeros((new_size, old_size))
    for tap in range(-1, 3):
        d = np.abs(position - (low + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        weight = np.where(d <= 1, near, far)
        np.add.at(matrix, (new, np.clip(low + tap, 0, old_size - 1)), weight)
    return matrix.astype(np.float32)
