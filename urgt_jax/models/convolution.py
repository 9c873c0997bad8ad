"""Convolution at stride 1 whose kernel gradient is fast on CPUs too."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Conv(nnx.Module):
    """A convolution of odd size with zero padding and bias, which keeps the map's size."""

    def __init__(self, size: int, fan_in: int, out: int, dtype, rngs: nnx.Rngs, *, bias=True):
        # A uniform draw compiles several times faster than a truncated normal one.
        kernel = nnx.initializers.lecun_uniform()(rngs.params(), (size, size, fan_in, out))
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(out)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        y = convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _convolve(x, kernel):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=names)


@jax.custom_vjp
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C D"]
) -> Float[Array, "B H W D"]:
    """The cross-correlation with an odd kernel, zeros around the map."""
    return _convolve(x, kernel)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(kept, seen):
    x, kernel = kept
    to_x = _convolve(seen, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    size = kernel.shape[:2]
    to_kernel = jax.lax.platform_dependent(
        x, seen, cpu=partial(_by_picture, size=size), default=partial(_by_conv, size=size)
    )
    return to_x, to_kernel.reshape(kernel.shape).astype(kernel.dtype)


def _by_conv(x, seen, size):
    """XLA's own kernel gradient."""
    shape = (*size, x.shape[-1], seen.shape[-1])
    (gradient,) = jax.linear_transpose(
        lambda kernel: _convolve(x, kernel), jax.ShapeDtypeStruct(shape, x.dtype)
    )(seen)
    return gradient.astype(jnp.float32)  # as the other way gives it


def _by_picture(x, seen, size):
    """Picture by picture as a matrix product, which stays in the cache: 4 times as fast on CPU."""
    (rows, cols), (h, w) = size, x.shape[1:3]
    border = [(0, 0), (rows // 2,) * 2, (cols // 2,) * 2, (0, 0)]
    shape = (rows * cols * x.shape[-1], seen.shape[-1])

    def add(total, item):
        x, seen = item
        shifted = [x[i : i + h, j : j + w] for i in range(rows) for j in range(cols)]
        columns = jnp.concatenate(shifted, -1).reshape(h * w, -1)
        product = jnp.dot(columns.T, seen.reshape(h * w, -1), preferred_element_type=jnp.float32)
        return total + product, None

    total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), (jnp.pad(x, border), seen))
    return total.reshape(*size, x.shape[-1], seen.shape[-1])


convolve.defvjp(_forward, _backward)
