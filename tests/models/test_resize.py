"""Resizing on the device."""

import jax.numpy as jnp
import numpy as np

from urgt_jax.models.resize import resize


def test_resize_keeps_corners_on_corners_when_asked():
    x = jnp.arange(5, dtype=jnp.float32).reshape(1, 5, 1)
    np.testing.assert_allclose(resize(x, 1, 9, True)[0, :, 0], np.arange(9) / 2)
