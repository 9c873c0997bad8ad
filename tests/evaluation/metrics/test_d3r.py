"""D3R of maps whose order is known."""

import math

import numpy as np
import pytest
from helpers.metric_maps import SIZE, truth_of

from urgt_jax.evaluation.metrics import d3r


@pytest.mark.parametrize(("near", "far", "expected"), [(2, 4, 0), (3, 3.02, 1), (4, 2, 2)])
def test_d3r_of_a_kept_a_lost_and_a_reversed_order(near, far, expected):
    left = np.broadcast_to(np.arange(32) < 16, (32, 32))
    truth = truth_of(np.where(left, 2, 4))
    assert d3r.d3r(np.where(left, near, far).astype(float), truth) == expected


def test_d3r_is_undefined_without_discontinuities():
    left = np.broadcast_to(np.arange(32) < 16, (32, 32))
    depth = np.where(left, 2, 2.1)  # no pair differs by more than 1.1
    assert math.isnan(d3r.d3r(depth, truth_of(depth)))


def test_ordinal_pairs_of_a_large_image_are_inside_it(monkeypatch, scene):
    truth, _, _ = scene
    monkeypatch.setattr(d3r, "MAX_PIXELS", 300)  # every third pixel
    points, pairs = d3r.ordinal_pairs(truth)
    assert (points >= 0).all() and (points < SIZE).all()
    assert (points % 3 == 1).all()
    assert len(pairs) > len(points) > 10
    assert pairs.max() < len(points)
