"""Scores of one image under the configured protocol."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import metric_maps
from helpers.metric_maps import CAMERA, SIZE

from urgt_jax.config import Config, Eval, Prior
from urgt_jax.data.sources import PriorSample
from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.candidates import Candidate, WindowDepths
from urgt_jax.evaluation.score import ground_truth, score, scoring_for


@pytest.mark.parametrize(
    ("kind", "align", "expected"),
    [
        ("depth", "prior", "none"),
        ("disparity", "prior", "disparity"),
        ("depth", "disparity", "disparity"),
    ],
)
def test_scoring_aligns_as_configured(kind, align, expected):
    config = Config(prior=Prior(kind=kind), eval=Eval(align=align))
    assert scoring_for(config).protocol.align == expected


def test_scoring_rejects_relative_disparity_without_alignment():
    with pytest.raises(UserError, match="without alignment"):
        scoring_for(Config(prior=Prior(kind="disparity"), eval=Eval(align="none")))


@pytest.mark.parametrize(("grid", "patches"), [((2, 3), 6), ((0, 0), 8)])
def test_scoring_windows_are_the_configured_or_fitted_patches(grid, patches):
    scoring = scoring_for(Config(eval=Eval(grid=grid)))
    assert scoring.windows((1036, 2072)).count == patches  # patches of 518 x 518


@pytest.fixture(scope="module")
def scene_maps():
    """Ground truth, predicted metres and predicted normals."""
    return metric_maps.boxes_and_plane()


@pytest.fixture
def sample(scene_maps):
    truth, _, _ = scene_maps
    image = np.zeros((*SIZE, 3), np.uint8)
    return PriorSample(image, truth.depth, truth.valid, CAMERA, None, None, None, None, None)


def test_ground_truth_has_normals_of_depth_where_the_camera_is_known(sample):
    protocol = scoring_for(Config()).protocol
    truth = ground_truth(sample, protocol)
    normal, _ = metrics.true_normals(truth._replace(normal=None))
    np.testing.assert_array_equal(truth.normal, normal)
    assert ground_truth(sample._replace(intrinsics=None), protocol).normal is None


def test_score_has_no_agreement_without_normals(sample, scene_maps):
    _, pred, normal = scene_maps
    scoring = replace(scoring_for(Config(prior=Prior(kind="depth"))), grid=(2, 2))
    truth = ground_truth(sample, scoring.protocol)
    both = score(Candidate(pred, normal), truth, scoring)
    assert 0 < both.scores["depth"]["agreement"] < 90
    assert both.angle_counts.sum() == truth.normal.any(-1).sum()
    alone = score(Candidate(pred, None), truth, scoring)
    assert "agreement" not in alone.scores["depth"]
    assert alone.scores["normal"] == {}
    assert alone.angle_counts is None and alone.normal is None


def test_score_measures_consistency_in_metres_under_the_alignment_of_the_map(sample, scene_maps):
    _, pred, _ = scene_maps
    scoring = replace(scoring_for(Config(prior=Prior(kind="disparity"))), grid=(2, 2))
    truth = ground_truth(sample, scoring.protocol)
    disparity = 1 / pred
    windows = metrics.consistency_windows(*SIZE)
    cut = np.stack([disparity[windows.window(k)] for k in range(windows.count)])
    scores = score(Candidate(disparity, None, WindowDepths(windows, cut)), truth, scoring).scores
    assert scores["depth"]["ce"] == scores["depth"]["ce_disparity"] == 0
    every_other = np.arange(16, dtype=np.float32)[:, None, None] % 2
    apart = WindowDepths(windows, cut * (1 + 0.1 * every_other))
    scores = score(Candidate(disparity, None, apart), truth, scoring).scores
    assert scores["depth"]["ce"] > scores["depth"]["ce_disparity"] > 0
