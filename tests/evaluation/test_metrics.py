"""Losses on maps whose values are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.images.geometry import unit_vectors
from urgt_jax.training import loss_terms


def _maps(seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 20, (2, 16, 20)).astype(np.float32)
    return depth, rng.random((2, 16, 20)) < 0.8


def test_gradient_matching_ignores_a_constant_and_sees_a_slope():
    depth, mask = _maps()
    matching = jax.jit(loss_terms.gradient_matching)
    assert matching(depth + 3, depth, mask) < 1e-5
    slope = depth + 0.1 * np.arange(20, dtype=np.float32)
    # Steps of 1, 2, 4 and 8 along one of two axes.
    assert matching(slope, depth, mask) == pytest.approx(0.1 * 15 / 8, rel=1e-3)


def test_the_relative_error_of_near_and_far_is_in_proportion_and_sees_no_mask():
    target = np.array([[0.9, 0.4, 0.0, 0.5]], np.float32)
    mask = np.array([[True, True, True, False]])
    off = np.array([[0.1, -0.05, 0.01, np.nan]], np.float32)
    assert loss_terms.mean_relative_error(target + off, target, mask) == pytest.approx(
        0.1, rel=1e-5
    )


def test_confidences_learn_one_over_the_error_and_leave_it_as_it_is():
    error, mask = np.array([0.5, 0.02, 0.1, 9.0], np.float32), np.array([True, True, True, False])
    of_sure, of_error = jax.grad(loss_terms.confidence_loss, (0, 1))(1 / error, error, mask)
    np.testing.assert_allclose(of_sure, 0, atol=1e-6)
    np.testing.assert_array_equal(of_error, 0)
    least = loss_terms.confidence_loss(1 / error, error, mask)
    assert all(loss_terms.confidence_loss(k / error, error, mask) > least for k in (0.9, 1.1))


def test_losses_are_finite_with_their_gradients_where_nothing_is_valid():
    depth, mask = _maps()
    none, normal = mask & False, jnp.zeros((2, 16, 20, 3))

    def total(d, n):
        return (
            loss_terms.mean_squared_error(d, depth, none)
            + loss_terms.mean_relative_error(d, depth, none)
            + loss_terms.gradient_matching(d, depth, none)
            + loss_terms.angular_loss(n, normal, none)
            + loss_terms.alignment_loss(n, normal, mask)
            + loss_terms.mean_normal_distance(n, normal, mask)
            + loss_terms.confidence_loss(d, loss_terms.relative_error(d, depth), none)
            + loss_terms.confidence_loss(d, loss_terms.normal_distance(n, normal), none)
        )

    for gradient in jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(depth), normal):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("degrees", [0.1, 10, 90])
def test_unit_normals_are_apart_by_the_chord_of_their_angle(degrees):
    angle, size = math.radians(degrees), (4, 5)
    turned = np.broadcast_to([0, -math.sin(angle), -math.cos(angle)], (*size, 3))
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*size, 3))
    found = loss_terms.mean_normal_distance(
        3 * turned.astype(np.float32), facing, np.ones(size, bool)
    )
    assert float(found) == pytest.approx(2 * math.sin(angle / 2), rel=1e-3)


def test_alignment_of_unit_normals_is_twice_the_angular_term():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((1, 5, 5, 3)).astype(np.float32) for _ in range(2))
    mask, b = np.ones((1, 5, 5), bool), unit_vectors(b)
    twice = 2 * float(loss_terms.angular_loss(a, b, mask))
    assert float(loss_terms.alignment_loss(a, b, mask)) == pytest.approx(twice, rel=1e-5)
