"""Loss terms: what they measure, and finite gradients where nothing is valid."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.images.geometry import normals_from_depth, unit_vectors
from urgt_jax.training import loss_terms

CAMERA = jnp.array([40.0, 50.0, 15.0, 11.0])


@pytest.fixture
def depth() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(2, 20, (2, 16, 20)), jnp.float32)


@pytest.fixture
def mask() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).random((2, 16, 20)) < 0.8)


def test_gradient_matching_ignores_a_constant_and_measures_a_slope(depth, mask):
    matching = jax.jit(loss_terms.gradient_matching)
    assert matching(depth + 3, depth, mask) < 1e-5
    slope = depth + 0.1 * np.arange(20, dtype=np.float32)
    # A sum over offsets of 1, 2, 4 and 8 pixels along one of two axes.
    assert matching(slope, depth, mask) == pytest.approx(0.1 * 15, rel=1e-3)


def test_gradient_matching_with_counts_of_the_whole_adds_up_over_parts(depth, mask):
    target = depth + depth**2 / 10
    counts = loss_terms.count_pairs(mask)
    matching = jax.jit(loss_terms.gradient_matching)
    whole = matching(depth, target, mask)
    parts = [
        matching(depth[i : i + 1], target[i : i + 1], mask[i : i + 1], counts) for i in range(2)
    ]
    assert sum(parts) == pytest.approx(float(whole), rel=1e-5)


def test_relative_error_is_proportional_and_ignores_masked_pixels():
    target = jnp.array([[0.9, 0.4, 0.0, 0.5]])
    mask = jnp.array([[True, True, True, False]])
    offset = jnp.array([[0.1, -0.05, 0.01, jnp.nan]])
    error = loss_terms.mean_relative_error(target + offset, target, mask)
    assert error == pytest.approx(0.1, rel=1e-5)


def test_confidence_loss_is_least_at_one_over_the_error_and_leaves_the_error():
    error = jnp.array([0.5, 0.02, 0.1, 9.0])
    mask = jnp.array([True, True, True, False])
    gradient = jax.grad(loss_terms.confidence_loss, (0, 1))
    of_confidence, of_error = gradient(1 / error, error, mask)
    np.testing.assert_allclose(of_confidence, 0, atol=1e-6)
    np.testing.assert_array_equal(of_error, 0)
    least = loss_terms.confidence_loss(1 / error, error, mask)
    for factor in (0.9, 1.1):
        assert loss_terms.confidence_loss(factor / error, error, mask) > least


def test_terms_and_gradients_are_finite_where_nothing_is_valid(depth, mask):
    nothing = mask & False
    normal = jnp.zeros((2, 16, 20, 3))

    def total(d: jax.Array, n: jax.Array) -> jax.Array:
        return (
            loss_terms.mean_squared_error(d, depth, nothing)
            + loss_terms.mean_relative_error(d, depth, nothing)
            + loss_terms.gradient_matching(d, depth, nothing)
            + loss_terms.angular_loss(n, normal, nothing)
            + loss_terms.alignment_loss(n, normal, mask)
            + loss_terms.mean_normal_distance(n, normal, mask)
            + loss_terms.confidence_loss(d, loss_terms.relative_error(d, depth), nothing)
            + loss_terms.confidence_loss(d, loss_terms.normal_distance(n, normal), nothing)
        )

    for gradient in jax.jit(jax.grad(total, (0, 1)))(depth, normal):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("depth", [0.0, 3.0])
def test_gradients_through_pseudo_normals_are_finite_on_constant_maps(depth):
    maps = jnp.full((2, 12, 12), depth)

    def loss(x: jax.Array) -> jax.Array:
        normal, valid = normals_from_depth(x, jnp.stack([CAMERA, CAMERA]), x > 0)
        angular = loss_terms.angular_loss(normal, normal, valid)
        return angular + loss_terms.gradient_matching(x, jnp.zeros_like(x), x > 0)

    assert np.isfinite(jax.jit(jax.grad(loss))(maps)).all()


@pytest.mark.parametrize("degrees", [0.1, 10, 90])
def test_normal_distance_is_the_chord_of_the_angle(degrees):
    angle = math.radians(degrees)
    rotated = jnp.broadcast_to(jnp.array([0, -math.sin(angle), -math.cos(angle)]), (4, 5, 3))
    facing = jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0]), (4, 5, 3))
    distance = loss_terms.mean_normal_distance(3 * rotated, facing, jnp.ones((4, 5), bool))
    assert float(distance) == pytest.approx(2 * math.sin(angle / 2), rel=1e-3)


def test_alignment_of_unit_normals_is_twice_the_angular_term():
    rng = np.random.default_rng(3)
    pred = jnp.asarray(rng.standard_normal((1, 5, 5, 3)), jnp.float32)
    target = unit_vectors(jnp.asarray(rng.standard_normal((1, 5, 5, 3)), jnp.float32))
    mask = jnp.ones((1, 5, 5), bool)
    twice = 2 * float(loss_terms.angular_loss(pred, target, mask))
    assert float(loss_terms.alignment_loss(pred, target, mask)) == pytest.approx(twice, rel=1e-5)
