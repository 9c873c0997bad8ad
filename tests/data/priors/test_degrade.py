"""Degraded scenes: coarse maps that resemble the truth, and less so with greater strength."""

from functools import cache

import numpy as np
import pytest

from urgt_jax.config import Prior
from urgt_jax.data.priors.degrade import (
    DEGRADATIONS,
    STRENGTHS,
    CoarseMaps,
    _Draw,
    degrade,
    extreme,
)
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.errors import UserError
from urgt_jax.images.geometry import unit_normals


@cache
def _truth():
    """The most cluttered of a few scenes, and its pixels with a known depth."""
    views = [render(sample_scene(seed), 56, 84) for seed in range(6)]
    jumps = [np.abs(np.diff(1 / np.maximum(view.depth, 0.1))).mean() for view in views]
    view = views[int(np.argmax(jumps))]
    return view, view.valid & (view.depth < 80)


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=lambda x: x.__name__)
def test_every_degradation_keeps_the_scene_and_loses_its_detail(degradation):
    view, valid = _truth()
    truth = np.where(valid, 1 / np.maximum(view.depth, 1e-3), 1 / 80).astype(np.float32)
    draw = _Draw(Prior(), np.random.default_rng(0), 24.0, view.image)
    maps = degradation(draw, CoarseMaps(truth, view.normal))
    assert maps.disparity.shape == truth.shape and np.isfinite(maps.disparity).all()
    assert np.corrcoef(maps.disparity.ravel(), truth.ravel())[0, 1] > 0.6
    assert np.abs(maps.disparity - truth).max() > 0.02 * truth.max()
    cosine = (unit_normals(maps.normal) * view.normal).sum(-1)[valid]
    assert 0.5 < cosine.mean() < 0.9999


def test_degrade_with_a_greater_strength_is_less_like_the_truth():
    view, valid = _truth()
    truth = 1 / np.maximum(view.depth, 1e-3)
    correlations = []
    for prior in STRENGTHS.values():
        rng = np.random.default_rng(0)
        depth, _ = degrade(view.depth, view.normal, valid, prior, rng, 80.0)
        correlations.append(np.corrcoef(depth[valid], truth[valid])[0, 1])
    assert list(STRENGTHS) == ["weak", "middle", "strong"]
    assert correlations == sorted(correlations, reverse=True)


def test_degrade_varied_differs_from_the_usual_degradation_and_repeats():
    view, valid = _truth()

    def coarse_depth(vary: float, seed: int, image=view.image) -> np.ndarray:
        rng, prior = np.random.default_rng(seed), Prior(vary=vary)
        return degrade(view.depth, view.normal, valid, prior, rng, 80.0, image)[0]

    assert all((coarse_depth(1.0, seed) != coarse_depth(0.0, seed)).any() for seed in range(6))
    assert (coarse_depth(1.0, 1) == coarse_depth(1.0, 1)).all()
    assert all(np.isfinite(coarse_depth(1.0, seed, None)).all() for seed in range(8))


@pytest.mark.parametrize(
    "changes", [{"grain": (0.2, 0.1)}, {"tilt": (-1.0, 1.0)}, {"blur": (0.0, 1.0)}, {"vary": 1.5}]
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
