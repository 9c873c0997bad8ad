"""Resizing of feature maps in JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize(
    x: Float[Array, "*B H W C"], height: int, width: int, align_corners: bool = False
) -> Float[Array, "*B h w C"]:
    """Bilinear resampling without antialias; pixel centres at one half, or corners on corners."""
    if x.shape[-3] != height:
        x = _stretch(x, -3, height, align_corners)
    return x if x.shape[-2] == width else _stretch(x, -2, width, align_corners)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _stretch(x: Float[Array, "*B"], axis: int, want: int, align_corners: bool):
    """One axis resampled: by matrix where gathers are slow, as on TPUs, by gathers on CPUs."""
    way = dict(axis=axis, want=want, align_corners=align_corners)
    return jax.lax.platform_dependent(
        x, cpu=partial(_by_gather, **way), default=partial(_by_matrix, **way)
    )


def _stretch_back(axis: int, want: int, align_corners: bool, have: int, seen):
    # By matrix everywhere: the gradient of a gather is a scatter, which is slow everywhere.
    return (_mix(_lerp(have, want, align_corners).T, seen, axis),)


_stretch.defvjp(lambda x, *way: (_stretch(x, *way), x.shape[way[0]]), _stretch_back)


def _mix(matrix: np.ndarray, x: Float[Array, "*B"], axis: int) -> Float[Array, "*B"]:
    names = "oi,...iwc->...owc" if axis == -3 else "oi,...hic->...hoc"
    return jnp.einsum(names, matrix.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _by_matrix(x, axis: int, want: int, align_corners: bool):
    return _mix(_lerp(x.shape[axis], want, align_corners), x, axis)


def _by_gather(x, axis: int, want: int, align_corners: bool):
    low, share = _neighbours(x.shape[axis], want, align_corners)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = share.astype(x.dtype).reshape(-1, *(1,) * (-axis - 1))
    return jnp.take(x, low, axis) * (1 - share) + jnp.take(x, high, axis) * share


def _neighbours(have: int, want: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """The lower neighbour of each new pixel, and the upper one's share."""
    if align_corners:
        place = np.arange(want) * ((have - 1) / max(want - 1, 1))
    else:
        place = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
    low = np.minimum(place.astype(np.int32), max(have - 2, 0))
    return low, place - low


def _lerp(have: int, want: int, align_corners: bool) -> np.ndarray:
    """[want, have] shares of the two neighbours of each new pixel."""
    low, share = _neighbours(have, want, align_corners)
    matrix = np.zeros((want, have), np.float32)
    matrix[np.arange(want), np.minimum(low + 1, have - 1)] = share
    matrix[np.arange(want), low] += 1 - share
    return matrix


def resize_cubic(
    x: Float[Array, "*B H W C"], height: int, width: int, steps: tuple[float, float]
) -> Float[Array, "*B h w C"]:
    """Bicubic resampling as torch's without antialias (a = -0.75); `steps` old pixels a new one."""
    x = _mix(_cubic(x.shape[-3], height, steps[0]), x, -3)
    return _mix(_cubic(x.shape[-2], width, steps[1]), x, -2)


def _cubic(have: int, want: int, step: float) -> np.ndarray:
    """[want, have] shares of the four neighbours of each new pixel, the border repeated."""
    a = -0.75
    place = (np.arange(want) + 0.5) * step - 0.5
    low = np.floor(place).astype(int)
    matrix = np.zeros((want, have))
    for tap in range(-1, 3):
        d = np.abs(place - (low + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        share = np.where(d <= 1, near, ((d - 5) * d + 8) * d * a - 4 * a)
        np.add.at(matrix, (np.arange(want), np.clip(low + tap, 0, have - 1)), share)
    return matrix.astype(np.float32)
