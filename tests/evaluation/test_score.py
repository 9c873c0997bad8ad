"""Scores of one image under the configured protocol."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import metric_maps
from helpers.metric_maps import CAMERA, SIZE

from urgt_jax.config import Config, Data, Eval, Prior
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
        ("depth", "median", "median"),
    ],
)
def test_scoring_aligns_as_configured(kind, align, expected):
    config = Config(prior=Prior(kind=kind), eval=Eval(align=align))
    assert scoring_for(config).protocol.align == expected


def test_scoring_rejects_relative_disparity_without_alignment():
    with pytest.raises(UserError, match="without alignment"):
        scoring_for(Config(prior=Prior(kind="disparity"), eval=Eval(align="none")))


def test_scoring_is_limited_to_the_usual_depth_of_the_data_set():
    nyu = Config(data=Data(source="nyu_depth_v2", path="there"))
    assert scoring_for(nyu).protocol.max_depth == 10
    assert scoring_for(replace(nyu, eval=Eval(max_depth=5))).protocol.max_depth == 5
    assert scoring_for(Config()).protocol.max_depth == 80
    with pytest.raises(UserError, match="eval.max_depth 100 is above data.max_depth 80"):
        scoring_for(Config(eval=Eval(max_depth=100)))


def test_scoring_clamps_at_the_image_only_with_aligned_disparity():
    with pytest.raises(UserError, match="eval.clamp image .* needs eval.align disparity"):
        scoring_for(Config(prior=Prior(kind="depth"), eval=Eval(clamp="image")))


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
    assert truth.pseudo_normals
    exact = ground_truth(sample._replace(normal=normal), protocol)
    assert not exact.pseudo_normals
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


def test_score_counts_holes_and_can_leave_them_out(sample, scene_maps):
    _, pred, _ = scene_maps
    scoring = replace(scoring_for(Config(prior=Prior(kind="depth"))), grid=(2, 2))
    truth = ground_truth(sample, scoring.protocol)
    pred = np.where(truth.known, truth.depth, 1).astype(np.float32)
    pred[:10] = 0
    share = 100 * truth.known[:10].sum() / truth.known.sum()
    errors = score(Candidate(pred, None), truth, scoring).scores["depth"]
    assert errors["holes"] == pytest.approx(share)
    assert errors["abs_rel"] == pytest.approx(share / 100, rel=1e-3)  # each is off by nearly 1
    protocol = replace(scoring.protocol, holes="left_out")
    left_out = score(Candidate(pred, None), truth, replace(scoring, protocol=protocol))
    assert left_out.scores["depth"]["holes"] == pytest.approx(share)
    assert left_out.scores["depth"]["abs_rel"] == left_out.scores["depth"]["seam"] == 0


def test_score_aligns_in_spite_of_holes(sample, scene_maps):
    scoring = scoring_for(Config(prior=Prior(kind="depth"), eval=Eval(align="disparity")))
    scoring = replace(scoring, grid=(2, 2), protocol=replace(scoring.protocol, holes="left_out"))
    truth = ground_truth(sample, scoring.protocol)
    pred = np.where(truth.known, 3 * truth.depth, 1).astype(np.float32)
    pred[:10] = 0
    assert score(Candidate(pred, None), truth, scoring).scores["depth"]["abs_rel"] < 1e-5


def test_score_measures_consistency_without_a_cap_if_asked(sample, scene_maps):
    _, pred, _ = scene_maps
    scoring = replace(scoring_for(Config(prior=Prior(kind="depth"))), grid=(2, 2))
    truth = ground_truth(sample, scoring.protocol)
    windows = metrics.consistency_windows(*SIZE)
    far = np.full((16, *windows.patch), 100, np.float32)
    far[::2] = 90
    values = Candidate(pred, None, WindowDepths(windows, far))
    assert score(values, truth, scoring).scores["depth"]["ce"] == 0
    protocol = replace(scoring.protocol, cap_consistency=False)
    assert score(values, truth, replace(scoring, protocol=protocol)).scores["depth"]["ce"] > 1


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
