"""Normal scores at known angles, and against a plain reference."""

import math

import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import CAMERA, TILE, tilted_normals, truth_of

from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.metrics import normals


def test_normal_scores_of_known_angles():
    truth = truth_of([[1, 1, 1, 1]], normal=tilted_normals([[0, 0, 0, 0]]))
    scores, _ = metrics.normal_scores(tilted_normals([[2, 6, 10, 40]]), truth, tile=TILE)
    half_bin = 0.51 / normals.BINS_PER_DEGREE  # and the rounding of float32
    assert scores["mean"] == pytest.approx((2 + 6 + 10 + 40) / 4, abs=half_bin)
    assert scores["median"] == pytest.approx((6 + 10) / 2, abs=half_bin)
    assert scores["rmse"] == pytest.approx(math.sqrt((4 + 36 + 100 + 1600) / 4), abs=half_bin)
    assert [scores[f"below_{t}"] for t in ("5", "7.5", "11.25", "30")] == [25, 50, 75, 75]


def test_normal_scores_ignore_length_and_count_missing_predictions_as_90_degrees():
    truth = truth_of([[1, 1, 1, 1]], normal=tilted_normals([[0, 0, 0, 0]]))
    truth.normal[0, 3] = 0  # unknown
    pred = 5 * tilted_normals([[10, 10, 10, 10]])
    pred[0, 0] = 0
    pred[0, 1] = np.nan
    scores, counts = metrics.normal_scores(pred, truth, tile=TILE)
    assert counts.sum() == 3
    assert scores["mean"] == pytest.approx((90 + 90 + 10) / 3, abs=1e-3)


def test_pooled_angles_weigh_all_pixels_alike():
    pooled = metrics.PooledAngles()
    assert math.isnan(pooled.scores()["median"])
    for degrees in ([[10]], [[20, 20, 20]]):
        truth = truth_of(np.ones_like(degrees), normal=tilted_normals(np.zeros_like(degrees)))
        _, counts = metrics.normal_scores(tilted_normals(degrees), truth, tile=TILE)
        pooled.add(counts)
    assert pooled.scores()["mean"] == pytest.approx((10 + 3 * 20) / 4, abs=1e-3)
    assert pooled.scores()["median"] == pytest.approx(20, abs=1e-3)


def test_normal_scores_match_the_reference(scene):
    truth, _, normal = scene
    target = reference_metrics.pseudo_normals(truth.depth, truth.valid, CAMERA)
    known = target.any(-1)
    assert 0.5 < known.mean() < 1
    scores, counts = metrics.normal_scores(normal, truth, tile=TILE)
    assert counts.sum() == known.sum()
    degrees = reference_metrics.angles(normal, target, known)
    assert scores == pytest.approx(reference_metrics.normal_scores(degrees), abs=2e-3)


def test_agreement_matches_the_reference(scene):
    truth, pred, normal = scene
    own = reference_metrics.pseudo_normals(pred, truth.valid, CAMERA)
    expected = reference_metrics.angles(normal, own, own.any(-1)).mean()
    assert metrics.agreement(pred, normal, truth, tile=TILE) == pytest.approx(expected, abs=2e-3)


def test_normal_scores_reject_a_map_of_another_size():
    truth = truth_of(np.ones((2, 2)))
    with pytest.raises(UserError, match=r"\(2, 2, 3\)"):
        metrics.normal_scores(np.ones((3, 2, 3), np.float32), truth)


def test_true_normals_of_depth_need_intrinsics():
    with pytest.raises(UserError, match="intrinsics"):
        metrics.true_normals(truth_of(np.ones((2, 2))))
