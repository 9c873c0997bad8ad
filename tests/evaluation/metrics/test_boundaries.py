"""Boundaries worked out by hand, and against plain references."""

import math

import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import truth_of

from urgt_jax.data.samples import Annotations
from urgt_jax.evaluation.metrics import boundaries

WEIGHTS = np.linspace(0.05, 0.25, 10)


def test_f1_of_an_edge_below_most_thresholds():
    # The truth doubles between the columns 2 and 3. The prediction grows by 1.1: above 1.05, 1.0722
    # and 1.0944. With a radius of 1, the pixels of the second and third row are compared: 2 pairs
    # cross the boundary outwards in both, so that F1 is 1 at these thresholds and 0 above.
    true = np.ones((4, 6))
    true[:, 3:] = 2
    pred = np.where(true > 1, 1.1, 1.0)
    found = boundaries.f1_within(pred, truth_of(true), 1)
    assert found == pytest.approx(WEIGHTS[:3].sum() / WEIGHTS.sum())
    assert boundaries.f1_within(true, truth_of(true), 1) == 1
    assert boundaries.f1_within(2.2 - pred, truth_of(true), 1) == 0  # the opposite edge


def test_f1_is_undefined_without_true_boundaries():
    assert math.isnan(boundaries.f1_within(np.ones((4, 6)), truth_of(np.ones((4, 6))), 1))


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_f1_matches_the_reference(scene, radius, monkeypatch):
    truth, pred, _ = scene
    monkeypatch.setattr(boundaries, "STRIP_PIXELS", 400)  # several strips
    expected = reference_metrics.f1_within(pred, truth.depth, truth.valid, radius)
    assert boundaries.f1_within(pred, truth, radius) == pytest.approx(expected, rel=1e-6)
    assert 0 < expected < 1


def test_edge_distances_of_an_edge_that_is_displaced():
    true = np.full((40, 60), 2.0)
    true[:, 30:] = 6
    shifted = np.full((40, 60), 2.0)
    shifted[:, 33:] = 6
    truth = truth_of(true)
    same = boundaries.edge_distances(true.astype(np.float32), truth)
    assert same == {"edge_accuracy": 0, "edge_completeness": 0}
    moved = boundaries.edge_distances(shifted.astype(np.float32), truth)
    assert moved == pytest.approx({"edge_accuracy": 3, "edge_completeness": 3}, abs=0.3)
    flat = boundaries.edge_distances(np.ones((40, 60), np.float32), truth)
    assert flat == {"edge_accuracy": 10, "edge_completeness": 10}


def test_edge_distances_use_the_edges_that_are_marked():
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:, 30:] = 6
    marked = np.zeros((40, 60), bool)
    marked[:, 34] = True
    truth = truth_of(np.ones((40, 60)), annotations=Annotations(edges=marked))
    scores = boundaries.edge_distances(depth, truth)
    rows, columns = np.nonzero(boundaries.canny(depth, depth > 0))
    assert scores["edge_accuracy"] == pytest.approx((34 - columns).mean())
    nearest = [np.hypot(rows - row, columns - 34).min() for row in range(40)]
    assert scores["edge_completeness"] == pytest.approx(np.mean(nearest))
    none = truth_of(np.ones((40, 60)), annotations=Annotations(edges=np.zeros((40, 60), bool)))
    assert math.isnan(boundaries.edge_distances(depth, none)["edge_accuracy"])


def test_boundary_recall_of_two_columns():
    # The foreground is one column wide: only the steps to its left and right count. The prediction
    # has the right one, by a factor of 2, above all thresholds; of four directions one is found,
    # and those without a boundary count as 0, as in Depth Pro's code.
    matte = np.zeros((3, 5), bool)
    matte[:, 2] = True
    disparity = np.ones((3, 5), np.float32)
    disparity[:, :3] = 2
    assert boundaries.boundary_recall(disparity, matte) == pytest.approx(0.25)
    disparity[:, :2] = 1
    assert boundaries.boundary_recall(disparity, matte) == pytest.approx(0.5)
    assert boundaries.boundary_recall(1 / disparity, matte) == 0


def test_boundary_recall_counts_only_the_steepest_step_of_a_slope():
    matte = np.zeros((1, 6), bool)
    matte[:, 2:] = True
    slope = np.float32([[1, 1.3, 1.7, 2.2, 2.2, 2.2]])  # ratios 1.3, 1.308, 1.294
    assert boundaries.boundary_recall(slope, matte) == pytest.approx(0.25)
    steeper_before = np.float32([[1, 1.4, 1.7, 2.2, 2.2, 2.2]])
    assert boundaries.boundary_recall(steeper_before, matte) == 0


def test_boundary_recall_matches_the_reference():
    rng = np.random.default_rng(0)
    matte = rng.random((14, 17)) < 0.5
    disparity = rng.uniform(1, 1.6, (14, 17)).astype(np.float32)
    expected = reference_metrics.boundary_recall(disparity, matte)
    assert boundaries.boundary_recall(disparity, matte) == pytest.approx(expected)
    assert 0.1 < expected < 0.9
