"""Units of coarse maps, and the fit of true disparity to them."""

import dataclasses

import numpy as np
import pytest
from helpers.coarse_maps import MAX_DEPTH, SIZES, RandomImages

from urgt_jax.config import Prior
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.priors.units import depth_target, fit_disparity, to_network_unit


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_units_are_restored_exactly(kind):
    coarse = np.random.default_rng(0).uniform(3, 70, (8, 9)).astype(np.float32)
    values, unit = to_network_unit(coarse, dataclasses.replace(Prior(), kind=kind), 80.0)
    assert values.min() >= 0 and values.max() <= 1
    np.testing.assert_allclose(unit.restore(values), coarse, rtol=1e-5)


def test_fit_is_the_least_squares_line_from_true_to_coarse_disparity(complete):
    stored = StoredPriors(complete / "all")
    source = RandomImages()
    for index, size in enumerate(SIZES):
        sample = source.read(index)
        name = source.name(index)
        valid = sample.valid & (sample.depth < MAX_DEPTH)
        assert 0.3 < valid.mean() < 0.7
        disparity = 1 / sample.depth[valid].astype(np.float64)
        coarse_depth, _ = stored.read(name, size)
        expected = np.polyfit(disparity, coarse_depth[valid], 1)
        np.testing.assert_allclose(stored.fit(name), expected, atol=1e-6)


def test_fit_without_valid_pixels_is_flat():
    depth = np.zeros((3, 4), np.float32)
    fit = fit_disparity(depth, depth > 0, np.ones_like(depth))
    assert fit.scale == 0 and np.isfinite(fit.shift)
    assert (depth_target(depth, depth > 0, fit, "disparity", 80.0) == 0).all()
