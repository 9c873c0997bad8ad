"""Convolution at stride 1 whose kernel gradient is fast on CPUs too."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Conv(nnx.Module):
    """A convolution with an odd kernel and zero padding, which keeps the size of the map."""

    def __init__(
        self, size: int, inputs: int, outputs: int, dtype, rngs: nnx.Rngs, *, bias: bool = True
    ):
        # A uniform draw compiles several times faster than a truncated normal one.
        init = nnx.initializers.lecun_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
        y = convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        if self.bias is None:
            return y
        return y + self.bias[...].astype(self.dtype)


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"]
) -> Float[Array, "B H W D"]:
    """The cross-correlation with a kernel of odd sides, with zeros around the map."""
    return jax.lax.platform_dependent(x, kernel, cpu=_convolve_on_cpu, default=_convolve)


def _convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"]
) -> Float[Array, "B H W D"]:
    layouts = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layouts)


@jax.custom_vjp
def _convolve_on_cpu(
    x: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"]
) -> Float[Array, "B H W D"]:
    return _convolve(x, kernel)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    x_gradient = _convolve(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    kernel_gradient = _kernel_gradient_by_image(x, gradient, kernel.shape[:2])
    return x_gradient, kernel_gradient.astype(kernel.dtype)


_convolve_on_cpu.defvjp(_forward, _backward)


def _kernel_gradient_by_image(
    x: Float[Array, "B H W C"], gradient: Float[Array, "B H W D"], size: tuple[int, int]
) -> Float[Array, "h w C D"]:
    """The kernel's gradient by a matrix product per image, which fits in the cache.

    It is 4 times as fast on a CPU as XLA's convolution.
    """
    rows, cols = size
    _, h, w, inputs = x.shape
    outputs = gradient.shape[-1]
    border = [(0, 0), (rows // 2, rows // 2), (cols // 2, cols // 2), (0, 0)]

    def add_image(total, item):
        x, gradient = item
        shifted = [x[i : i + h, j : j + w] for i in range(rows) for j in range(cols)]
        columns = jnp.concatenate(shifted, -1).reshape(h * w, -1)
        flat = gradient.reshape(h * w, -1)
        product = jnp.dot(columns.T, flat, preferred_element_type=jnp.float32)
        return total + product, None

    zeros = jnp.zeros((rows * cols * inputs, outputs), jnp.float32)
    total, _ = jax.lax.scan(add_image, zeros, (jnp.pad(x, border), gradient))
    return total.reshape(rows, cols, inputs, outputs)
