"""Intervals of means over images."""

import numpy as np
import pytest

from urgt_jax.evaluation import statistics
from urgt_jax.evaluation.statistics import bootstrap_intervals


def test_bootstrap_interval_of_equal_values_is_that_value():
    np.testing.assert_allclose(bootstrap_intervals(np.full((5, 1), 0.3)), [[0.3, 0.3]])


def test_bootstrap_interval_of_two_values():
    # A mean of two draws is 0, 1/2 or 1 with probabilities 1/4, 1/2 and 1/4.
    np.testing.assert_allclose(bootstrap_intervals(np.array([[0.0], [1.0]])), [[0, 1]])


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_images():
    rng = np.random.default_rng(1)
    values = rng.normal(3, 2, (400, 1))
    low, high = bootstrap_intervals(values)[0]
    spread = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - spread, abs=0.02)
    assert high == pytest.approx(values.mean() + spread, abs=0.02)


def test_bootstrap_matches_a_plain_loop_and_leaves_out_undefined_scores(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    rng = np.random.default_rng(2)
    values = rng.uniform(0, 1, (7, 2))
    values[3, 1] = values[5, 1] = np.nan
    draws = np.random.default_rng(0)
    means = []
    for row in draws.integers(0, 7, (50, 7)):
        means.append([np.nanmean(values[row, k]) for k in (0, 1)])
    expected = np.percentile(means, (2.5, 97.5), axis=0).T
    np.testing.assert_allclose(bootstrap_intervals(values), expected)


def test_bootstrap_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    values = np.random.default_rng(3).uniform(0, 1, (6, 1))
    whole = bootstrap_intervals(values)
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 60)
    np.testing.assert_array_equal(bootstrap_intervals(values), whole)


def test_bootstrap_needs_two_images():
    values = np.array([[1.0, np.nan], [np.nan, np.nan]])
    assert np.isnan(bootstrap_intervals(values)).all()
