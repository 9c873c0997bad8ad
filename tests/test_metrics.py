"""Losses and metrics on maps whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax import grid, losses, metrics
from urgt_jax.geometry import unit


def _maps(seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(2, 20, (2, 16, 20)).astype(np.float32)
    return depth, rng.random((2, 16, 20)) < 0.8


def test_truth_scores_perfectly_and_invalid_pixels_do_not_count():
    depth, mask = _maps()
    spoilt = np.where(mask, depth, 1e9).astype(np.float32)
    found = metrics.depth_metrics(spoilt, depth, mask)
    for name in ("abs_rel", "rmse", "silog"):
        np.testing.assert_allclose(found[name], 0, atol=1e-3)
    np.testing.assert_allclose(found["delta1"], 1)
    np.testing.assert_allclose(metrics.boundary_f1(depth, depth, mask), 1)


def test_a_fifth_too_deep_is_a_fifth_off():
    depth, mask = _maps()
    found = metrics.depth_metrics(depth * 1.2, depth, mask)
    np.testing.assert_allclose(found["abs_rel"], 0.2, rtol=1e-4)
    np.testing.assert_allclose(found["log10"], np.log10(1.2), rtol=1e-4)
    np.testing.assert_allclose(found["silog"], 0, atol=0.05)
    np.testing.assert_allclose(found["delta1"], 1)


def test_alignment_finds_scale_and_shift():
    depth, mask = _maps()
    disparity = (1 / depth - 0.02) / 3
    again = metrics.align(disparity, depth, mask).depth(disparity, 80.0)
    np.testing.assert_allclose(again, depth, rtol=1e-3)


def test_boundary_f1_sees_edges_that_are_blurred_or_invented():
    depth = np.full((1, 24, 24), 10.0, np.float32)
    depth[:, 8:16, 8:16] = 5.0
    mask = depth > 0
    away = np.abs(np.indices((24, 24)) - 11.5).max(0)
    ramp = np.interp(away, [2, 10], [5, 10]).astype(np.float32)[None]
    noisy = depth * np.where(np.indices((24, 24)).sum(0) % 2, 1.3, 1.0).astype(np.float32)
    assert metrics.boundary_f1(depth, depth, mask)[0] == pytest.approx(1)
    assert metrics.boundary_f1(ramp, depth, mask)[0] < 0.3
    assert metrics.boundary_f1(noisy, depth, mask)[0] < 0.3


def test_normals_turned_by_a_known_angle():
    turn = np.radians(10.0)
    a = np.broadcast_to(np.array([0, 0, -1], np.float32), (1, 8, 8, 3))
    b = np.broadcast_to(np.array([np.sin(turn), 0, -np.cos(turn)], np.float32), a.shape)
    found = metrics.normal_metrics(a, b, np.ones((1, 8, 8), bool))
    for name in ("mean", "median", "rmse"):
        np.testing.assert_allclose(found[name], 10, atol=1e-2)
    assert found["below_5"][0] == 0 and found["below_11.25"][0] == 100


def test_a_picture_without_valid_pixels_has_no_score():
    depth, mask = _maps()
    found = metrics.depth_metrics(depth, depth, mask & False)
    assert np.isnan(found["abs_rel"]).all()


@pytest.mark.parametrize("height,width", [(224, 392), (2160, 3840), (61, 83)])
def test_consistency_is_zero_for_one_map_and_grows_with_seams(height, width):
    windows = metrics.consistency_windows(height, width)
    picture = np.random.default_rng(0).random((height, width)).astype(np.float32)
    cut = np.stack(list(grid.cut(picture, windows)))
    assert metrics.consistency(cut, windows.origins, 80.0) == 0
    shifted = cut + np.arange(16, dtype=np.float32)[:, None, None] % 2
    assert metrics.consistency(shifted, windows.origins, 80.0) > 0.1


def test_published_consistency_windows():
    windows = metrics.consistency_windows(2160, 3840)
    assert windows.tops == (405, 675, 945, 1215) and windows.lefts == (405, 1095, 1785, 2475)
    assert windows.patch == (540, 960)


def test_gradient_matching_ignores_a_constant_and_sees_a_slope():
    depth, mask = _maps()
    assert losses.gradient_matching(depth + 3, depth, mask) < 1e-5
    slope = depth + 0.1 * np.arange(20, dtype=np.float32)
    # Steps of 1, 2, 4 and 8 along one of two axes.
    assert losses.gradient_matching(slope, depth, mask) == pytest.approx(0.1 * 15 / 8, rel=1e-3)


def test_losses_are_finite_with_their_gradients_where_nothing_is_valid():
    depth, mask = _maps()
    none, normal = mask & False, jnp.zeros((2, 16, 20, 3))

    def total(d, n):
        return (
            losses.mse(d, depth, none)
            + losses.gradient_matching(d, depth, none)
            + losses.angular(n, normal, none)
            + losses.alignment(n, normal, mask)
        )

    for gradient in jax.grad(total, (0, 1))(jnp.asarray(depth), normal):
        assert np.isfinite(gradient).all()


def test_alignment_of_unit_normals_is_twice_the_angular_term():
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((1, 5, 5, 3)).astype(np.float32) for _ in range(2))
    mask, b = np.ones((1, 5, 5), bool), unit(b)
    twice = 2 * float(losses.angular(a, b, mask))
    assert float(losses.alignment(a, b, mask)) == pytest.approx(twice, rel=1e-5)
