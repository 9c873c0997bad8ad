"""Geometry: normals from depth are exact on planes and have finite gradients everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.images.geometry import normals_from_depth, unit_normals, unit_vectors

CAMERA = np.array([40.0, 50.0, 15.0, 11.0], np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_normals_from_depth_are_exact_on_a_plane(seed):
    rng = np.random.default_rng(seed)
    normal = np.array([*rng.uniform(-0.5, 0.5, 2), -1.0])
    normal /= np.linalg.norm(normal)
    v, u = np.mgrid[:24, :32] + 0.5
    ray = np.stack([(u - CAMERA[2]) / CAMERA[0], (v - CAMERA[3]) / CAMERA[1], np.ones_like(u)], -1)
    depth = (-5.0 / (ray @ normal)).astype(np.float32)
    normals, defined = normals_from_depth(depth, CAMERA, depth > 0)
    assert defined.all()
    assert (np.asarray(normals) @ normal).min() > np.cos(np.radians(0.05))


def test_normals_from_depth_do_not_reach_across_a_step():
    depth = np.full((12, 16), 2.0, np.float32)
    depth[:, 8:] = 4.0
    normals, defined = normals_from_depth(depth, CAMERA, depth > 0)
    assert defined.all()
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1], normals.shape), atol=1e-6)


@pytest.mark.parametrize("depth", [0.0, 3.0])
def test_normals_from_depth_have_finite_gradients(depth):
    maps = jnp.full((2, 12, 12), depth)
    cameras = CAMERA[None].repeat(2, 0)

    def loss(x):
        normal, defined = normals_from_depth(x, cameras, x > 0)
        return jnp.sum(normal * defined[..., None])

    assert np.isfinite(jax.grad(loss)(maps)).all()


def test_unit_normals_face_the_camera_where_they_have_no_length():
    normal = np.array([[[0, 0, 0], [3, 0, -4]]], np.float32)
    np.testing.assert_allclose(unit_normals(normal), [[[0, 0, -1], [0.6, 0, -0.8]]])


def test_unit_vectors_keep_zero_with_a_finite_gradient():
    v = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, -4.0]])
    np.testing.assert_allclose(unit_vectors(v), [[0, 0, 0], [0.6, 0, -0.8]], rtol=1e-6)
    assert np.isfinite(jax.jacobian(unit_vectors)(v)).all()
