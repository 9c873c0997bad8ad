"""Degraded scenes: coarse maps with the errors that were measured on maps of real networks."""

from functools import cache

import numpy as np
import pytest

from urgt_jax.config import Prior
from urgt_jax.data.priors.degrade import (
    STRENGTHS,
    CoarseMaps,
    degrade,
    extreme,
    normals_of_disparity,
    surface_noise,
)
from urgt_jax.data.priors.filters import blur
from urgt_jax.data.priors.units import encode_disparity, fit_disparity
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.errors import UserError
from urgt_jax.evaluation.metrics.edges import drift, overshoot, step_scores

LINES = 480  # lines of the images that the measured figures refer to
# What four depth networks' maps of real pictures measure (docs/priors.md), with room for scenes.
MEASURED = {
    "edge_width": (2.0, 3.0),
    "edge_displacement": (0.5, 1.3),
    "edges_lost": (0.3, 17.0),
    "overshoot": (1.7, 3.3),
    "drift": (2.9, 10.9),
    "fine": (0.011, 0.11),
}


@cache
def _views():
    views = [render(sample_scene(seed, "val"), LINES, 840, workers=2) for seed in range(6)]
    return [(view, view.valid & (view.depth < 80)) for view in views]


def _coarse_disparity(view, valid, prior: Prior, seed: int) -> np.ndarray:
    """Coarse disparity, fitted to the truth."""
    rng = np.random.default_rng(seed)
    coarse, _ = degrade(view.depth, view.normal, valid, prior, rng, 80.0, view.intrinsics)
    fit = fit_disparity(view.depth, valid, coarse)
    return ((coarse - fit.shift) / fit.scale).astype(np.float32)


@pytest.mark.parametrize("strength", ["weak", "middle"])
def test_degrade_has_the_errors_of_real_networks(strength):
    scores = {name: [] for name in MEASURED}
    for seed, (view, valid) in enumerate(_views()):
        disparity = _coarse_disparity(view, valid, STRENGTHS[strength], seed)
        truth = np.where(valid, 1 / np.maximum(view.depth, 1e-3), 0).astype(np.float32)
        for name, value in step_scores(disparity, truth, valid, 1.0).items():
            scores[name].append(value)
        scores["overshoot"].append(overshoot(disparity, 1.0))
        scores["drift"].append(drift(disparity, truth, valid, 1.0))
        fine = np.abs(disparity - blur(disparity, 3.0))[valid]
        scores["fine"].append(100 * 1.4826 * np.median(fine) / truth[valid].mean())
    for name, (low, high) in MEASURED.items():
        assert low <= np.nanmedian(scores[name]) <= high, (name, scores[name])


def test_degrade_with_a_greater_strength_is_less_like_the_truth():
    errors = []
    for prior in STRENGTHS.values():
        differences = []
        for seed, (view, valid) in enumerate(_views()):
            disparity = _coarse_disparity(view, valid, prior, seed)
            differences.append(np.abs(disparity * view.depth - 1)[valid].mean())
        errors.append(np.mean(differences))
    assert list(STRENGTHS) == ["weak", "middle", "strong"]
    assert errors == sorted(errors)


def test_degrade_exact_is_the_truth_and_a_seed_repeats():
    view, valid = _views()[0]

    def maps(prior: Prior, seed: int):
        rng = np.random.default_rng(seed)
        return degrade(view.depth, view.normal, valid, prior, rng, 80.0, view.intrinsics)

    truth = np.where(valid, 1 / np.maximum(view.depth, 1e-3), 1 / 80).astype(np.float32)
    depth, normal = maps(Prior(exact=1.0), 0)
    np.testing.assert_array_equal(depth, encode_disparity(truth, Prior(), 80.0))
    np.testing.assert_allclose(normal[valid], view.normal[valid], atol=1e-6)
    np.testing.assert_array_equal(maps(Prior(), 1)[0], maps(Prior(), 1)[0])
    assert (maps(Prior(), 1)[0] != maps(Prior(), 2)[0]).any()


def test_degrade_lines_is_the_resolution_of_the_map():
    view, valid = _views()[0]
    prior = Prior(lines=(60, 60), drift=(0, 0), thin=0, displace=(0, 0), noise=(0, 0))
    disparity = _coarse_disparity(view, valid, prior, 0)
    # Between two rows of the coarse map, bilinear enlargement is linear.
    rows = disparity[4 + 8 * 20 : 12 + 8 * 20]
    np.testing.assert_allclose(np.diff(rows, 2, axis=0), 0, atol=1e-5)
    assert np.abs(np.diff(disparity, 2, axis=0)).max() > 1e-3


def test_surface_noise_is_smooth_on_a_surface_and_jumps_between_surfaces():
    disparity = np.full((120, 200), 0.2, np.float32)
    disparity[:, 100:] = 1.0
    normal = np.zeros((120, 200, 3), np.float32)
    normal[:, :100, 2] = -1
    normal[:, 100:, 0] = -1
    jumps = []
    slopes = []
    for seed in range(20):
        noise, _ = surface_noise(CoarseMaps(disparity, normal), np.random.default_rng(seed))
        jumps.append(np.abs(noise[:, 100] - noise[:, 99]).mean())
        slopes.append(np.abs(np.diff(noise[:, :100], axis=1)).mean())
    assert np.mean(jumps) > 0.6
    assert np.mean(slopes) < 0.05


def test_normals_of_disparity_are_those_of_a_plane():
    intrinsics = np.array([50.0, 60.0, 20.0, 14.0])
    normal = np.array([0.3, -0.5, -0.8])
    normal /= np.linalg.norm(normal)
    u = (np.arange(40) + 0.5 - 20) / 50
    v = (np.arange(30) + 0.5 - 14) / 60
    disparity = normal[0] * u[None] + normal[1] * v[:, None] + normal[2]
    found = normals_of_disparity((-disparity / 3).astype(np.float32), intrinsics)
    expected = np.broadcast_to(normal, (22, 32, 3))
    np.testing.assert_allclose(found[4:-4, 4:-4], expected, atol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"drift": (0.2, 0.1)}, {"tilt": (-1.0, 1.0)}, {"blur": (0.0, 1.0)}, {"exact": 1.5}]
)
def test_prior_rejects_impossible_strengths(changes):
    with pytest.raises(UserError, match=f"prior.{next(iter(changes))}"):
        Prior(**changes)


def test_extreme_takes_the_nearest_or_farthest_of_every_square():
    rng = np.random.default_rng(0)
    maps = CoarseMaps(rng.random((7, 9)).astype(np.float32), rng.random((7, 9, 3)))
    for sign, pick in ((1, np.argmax), (-1, np.argmin)):
        extremes = extreme(maps, 2, sign)
        for i, j in np.ndindex(7, 9):
            square = (slice(max(i - 2, 0), i + 3), slice(max(j - 2, 0), j + 3))
            k = pick(maps.disparity[square])
            assert extremes.disparity[i, j] == maps.disparity[square].flat[k]
            assert (extremes.normal[i, j] == maps.normal[square].reshape(-1, 3)[k]).all()
