"""Errors of planes that are known."""

import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import CAMERA, SIZE, truth_of

from urgt_jax.data.samples import Annotations
from urgt_jax.evaluation.metrics import planes

ROWS, COLUMNS = np.indices(SIZE)
RAYS = np.stack([(COLUMNS + 0.5 - 25) / 40, (ROWS + 0.5 - 19) / 42, np.ones(SIZE)], -1)


def plane_depth(normal, distance) -> np.ndarray:
    """The depth of the plane normal x point = distance."""
    return distance / (RAYS @ np.array(normal, float))


def truth_with_planes():
    labels = np.zeros(SIZE, np.int32)
    labels[:, :25] = 1
    labels[20:, 30:] = 2
    normals = np.array([[0.0, 0, -1], [0, -0.6, -0.8]])
    depth = np.where(labels == 1, 4, plane_depth([0, 0.6, 0.8], 3))
    annotations = Annotations(planes=labels, plane_normals=normals)
    return truth_of(depth, intrinsics=CAMERA, annotations=annotations)


def test_plane_scores_of_the_truth_at_another_scale_are_0():
    truth = truth_with_planes()
    scores = planes.plane_scores(3 * truth.depth, truth)
    assert scores == pytest.approx({"plane_flatness": 0, "plane_orientation": 0}, abs=1e-3)


def test_plane_scores_of_a_turned_and_of_an_uneven_plane():
    truth = truth_with_planes()
    turned = truth.depth.copy()
    angle = np.radians(10)
    first = truth.annotations.planes == 1
    turned[first] = plane_depth([np.sin(angle), 0, np.cos(angle)], 4)[first]
    scores = planes.plane_scores(turned, truth)
    assert scores["plane_orientation"] == pytest.approx(10 / 2, abs=1e-3)  # a mean of two planes
    assert scores["plane_flatness"] == pytest.approx(0, abs=1e-3)
    uneven = truth.depth.copy()
    uneven[first] += np.where(COLUMNS % 2, 0.05, -0.05)[first]
    flatness = planes.plane_scores(uneven, truth)["plane_flatness"]
    assert flatness == pytest.approx(5 / 2, rel=0.05)


def test_plane_scores_match_the_reference():
    truth = truth_with_planes()
    rng = np.random.default_rng(0)
    pred = (truth.depth * rng.uniform(0.9, 1.1, SIZE)).astype(np.float32)
    scores = planes.plane_scores(pred, truth)
    expected = reference_metrics.plane_errors(
        pred, truth.depth, truth.annotations.planes, truth.annotations.plane_normals, CAMERA
    )
    assert list(scores.values()) == pytest.approx(expected, rel=1e-6)


def test_plane_scores_need_annotations():
    assert planes.plane_scores(np.ones((2, 2)), truth_of(np.ones((2, 2)))) == {}
    empty = Annotations(planes=np.zeros((2, 2), np.int32), plane_normals=np.zeros((0, 3)))
    truth = truth_of(np.ones((2, 2)), intrinsics=CAMERA, annotations=empty)
    assert np.isnan(planes.plane_scores(np.ones((2, 2)), truth)["plane_flatness"])
