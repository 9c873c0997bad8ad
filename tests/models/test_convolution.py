"""Gradients of the convolution."""

import jax
import jax.numpy as jnp
import numpy as np

from urgt_jax.models.convolution import _convolve, convolve


def test_convolve_has_the_gradients_of_the_plain_convolution():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.standard_normal((2, 9, 7, 3), np.float32))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, 5), np.float32))

    def loss(convolution, x, kernel):
        return jnp.sin(convolution(x, kernel)).sum()

    gradients = jax.grad(loss, (1, 2))(convolve, x, kernel)
    wanted = jax.grad(loss, (1, 2))(_convolve, x, kernel)
    for gradient, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient, want, atol=2e-5)


def test_convolve_has_gradients_in_bfloat16():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.standard_normal((2, 5, 6, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 4, 4)), jnp.bfloat16)

    @jax.jit
    def gradients(x, kernel):
        def loss(x, kernel):
            return convolve(x, kernel).astype(jnp.float32).sum()

        return jax.grad(loss, (0, 1))(x, kernel)

    in_float32 = gradients(x.astype(jnp.float32), kernel.astype(jnp.float32))
    for half, full in zip(gradients(x, kernel), in_float32, strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.2, rtol=0.02)
