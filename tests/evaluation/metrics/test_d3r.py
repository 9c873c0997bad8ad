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
    assert d3r.order_scores(np.where(left, near, far).astype(float), truth)["d3r"] == expected


def test_stretched_depth_spreads_near_points():
    # True depths 1, 2, 4 become 0, 1/3, 1: the order of the first drops out. A prediction that
    # ends at the same extremes is stretched to the same ones; 1/p = 1/3 is 1/4 + 3/4 of 1/9.
    true = np.array([1.0, 2, 4])
    truth = truth_of([[1, 2, 4]])
    pred = np.array([[1.0, 3, 4]])
    stretched_true, stretched = d3r.stretch(true, pred[0], pred, truth)
    np.testing.assert_allclose(stretched_true, [0, 1 / 3, 1])
    np.testing.assert_allclose(stretched, [0, 2 / 3, 1])


def test_ord_of_a_kept_and_a_reversed_order():
    rows = np.broadcast_to(np.arange(32)[:, None], (32, 32))
    depth = np.where(rows < 10, 2.0, np.where(rows < 20, 4.0, 8.0))
    assert d3r.order_scores(depth, truth_of(depth))["ord"] == 0
    # The nearest part drops out; in the rest, 4 and 8 are swapped.
    swapped = np.where(rows < 10, 2.0, np.where(rows < 20, 8.0, 4.0))
    scores = d3r.order_scores(swapped, truth_of(depth))
    assert scores["ord"] == 2


def test_d3r_is_undefined_without_discontinuities():
    left = np.broadcast_to(np.arange(32) < 16, (32, 32))
    depth = np.where(left, 2, 2.1)  # no pair differs by more than 1.1
    assert math.isnan(d3r.order_scores(depth, truth_of(depth))["d3r"])


def test_ordinal_pairs_of_a_large_image_are_inside_it(monkeypatch, scene):
    truth, _, _ = scene
    monkeypatch.setattr(d3r, "MAX_PIXELS", 300)  # every third pixel
    points, pairs = d3r.ordinal_pairs(truth)
    assert (points >= 0).all() and (points < SIZE).all()
    assert (points % 3 == 1).all()
    assert len(pairs) > len(points) > 10
    assert pairs.max() < len(points)
