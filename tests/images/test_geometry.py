"""Normals from depth: exact on planes, finite everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.images.geometry import normals_from_depth
from urgt_jax.models.resize import resize
from urgt_jax.training import loss_terms

CAMERA = np.array([40.0, 50.0, 15.0, 11.0], np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_plane_gives_its_exact_normal(seed):
    rng = np.random.default_rng(seed)
    normal = np.array([*rng.uniform(-0.5, 0.5, 2), -1.0])
    normal /= np.linalg.norm(normal)
    v, u = np.mgrid[:24, :32] + 0.5
    ray = np.stack([(u - CAMERA[2]) / CAMERA[0], (v - CAMERA[3]) / CAMERA[1], np.ones_like(u)], -1)
    depth = (-5.0 / (ray @ normal)).astype(np.float32)
    found, ok = normals_from_depth(depth, CAMERA, depth > 0)
    assert ok.all()
    assert (np.asarray(found) @ normal).min() > np.cos(np.radians(0.05))


@pytest.mark.parametrize("depth", [0.0, 3.0])
def test_gradients_are_finite_on_empty_masks_and_constant_maps(depth):
    maps = jnp.full((2, 12, 12), depth)

    def loss(x):
        normal, ok = normals_from_depth(x, CAMERA[None].repeat(2, 0), x > 0)
        return loss_terms.angular_loss(normal, normal, ok) + loss_terms.gradient_matching(
            x, 0 * x, x > 0
        )

    assert np.isfinite(jax.grad(loss)(maps)).all()


def test_resize_keeps_corners_on_corners_when_asked():
    x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    np.testing.assert_allclose(resize(x, 1, 9, True)[0, :, 0], np.arange(9) / 2)
