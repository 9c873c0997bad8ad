"""Depth scores worked out by hand, and against a plain reference."""

import math

import jax
import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import TILE, truth_of

from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.metrics import GroundTruth, d3r, depth, tiled


def scores_of(pred, truth, tile=TILE):
    devices = jax.devices()[:1]
    return metrics.depth_scores(np.array(pred, np.float32), truth, devices, tile)


def test_depth_scores_of_four_pixels():
    scores = scores_of([[2, 2], [3, 5]], truth_of([[1, 2], [4, 5]]))
    first, second = math.log(2), math.log(3 / 4)  # the two logarithms that are not 0
    mean = (first + second) / 4
    expected = {
        "abs_rel": (1 / 1 + 1 / 4) / 4,
        "sq_rel": (1**2 / 1 + 1**2 / 4) / 4,
        "mae": (1 + 1) / 4,
        "rmse": math.sqrt((1 + 1) / 4),
        "rmse_log": math.sqrt((first**2 + second**2) / 4),
        "log10": (math.log10(2) + math.log10(4 / 3)) / 4,
        "silog": 100 * math.sqrt((first**2 + second**2) / 4 - mean**2),
        "delta1": 2 / 4,  # ratios 2, 1, 4/3, 1 against 1.25
        "delta2": 3 / 4,  # against 1.5625
        "delta3": 3 / 4,  # against 1.953
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert "see" not in scores  # the stereo camera is unknown


def test_boundary_f1_of_an_edge_below_most_thresholds():
    # The truth doubles. The prediction grows by 1.1: above 1.05, 1.0722 and 1.0944, below 1.1167.
    # One direction of four has an edge and finds it exactly: precision, recall and F1 are 1/4.
    exceeded = 1.05 + np.arange(3) * 0.2 / 9
    expected = 0.25 * exceeded.sum() / (10 * (1.05 + 1.25) / 2)
    assert scores_of([[1, 1.1]], truth_of([[1, 2]]))["boundary_f1"] == pytest.approx(expected)
    assert scores_of([[1.1, 1]], truth_of([[1, 2]]))["boundary_f1"] == 0  # the opposite edge


def test_boundary_f1_counts_the_skyline_but_no_holes():
    sky = truth_of([[np.inf, 10, 10, 0]])
    sky = sky._replace(valid=np.array([[False, True, True, False]]))
    # The only edge of one direction of four is found exactly. Steps next to the hole do not count.
    assert scores_of([[80, 10, 10, 1]], sky)["boundary_f1"] == pytest.approx(0.25)
    # Without a step at the skyline nothing is found.
    assert scores_of([[10, 10, 10, 1]], sky)["boundary_f1"] == 0
    # Beyond the range that is scored, depth is known as well.
    far = truth_of([[300, 10, 10, 0]])._replace(valid=sky.valid)
    assert scores_of([[80, 10, 10, 1]], far)["boundary_f1"] == pytest.approx(0.25)


def test_logarithms_of_clamped_predictions_are_exact():
    truth = truth_of([[1.7, 61.3, 9.1, 9.1]])
    pred = np.array([[1e-3, 1e-3, 9.0, 9.2]])
    scores = scores_of(pred, truth)
    log = np.log(np.float32(pred).astype(float)) - np.log(truth.depth.astype(float))
    assert scores["silog"] == pytest.approx(100 * log.std(), rel=1e-7)
    assert scores["rmse_log"] == pytest.approx(np.sqrt((log**2).mean()), rel=1e-7)


def test_soft_edge_error_of_one_edge():
    # Disparities 10 / depth: 2 2 5 5. The two in the middle are at an edge. The nearest true depth
    # to 3 among 5 5 2 is 2, off by 1; to 2.5 among 5 2 2 it is 2, off by 0.5.
    truth = truth_of([[5, 5, 2, 2]], stereo=10.0)
    assert scores_of([[9, 3, 2.5, 9]], truth)["see"] == pytest.approx((1 + 0.5) / 2)
    small_step = truth._replace(stereo=3.0)  # the disparities differ by 0.9
    assert scores_of([[9, 3, 2.5, 9]], small_step)["see"] == 0


def test_soft_edges_exist_next_to_sky_but_not_next_to_holes():
    truth = truth_of([[np.inf, 5, 5, 0]], stereo=10.0)
    truth = truth._replace(valid=np.array([[False, True, True, False]]))
    # Only the second pixel is at an edge.
    assert scores_of([[1, 4, 1, 1]], truth)["see"] == pytest.approx(1)


def test_depth_scores_match_the_reference(scene):
    truth, pred, _ = scene
    scores = scores_of(pred, truth)
    expected = reference_metrics.depth_errors(pred, truth.depth, truth.valid)
    expected["boundary_f1"] = reference_metrics.boundary_f1(pred, truth.depth)
    expected["see"] = reference_metrics.soft_edge_error(
        pred, truth.depth, truth.valid, truth.stereo
    )
    points, pairs = d3r.ordinal_pairs(truth)
    random = d3r.random_pairs(len(points))
    expected["d3r"] = reference_metrics.disagreement(pred, truth.depth, truth.valid, points, pairs)
    stretched = reference_metrics.stretched_depths(pred, truth.depth, truth.valid)
    expected["d3r_stretched"] = reference_metrics.disagreement(*stretched, points, pairs)
    expected["ord"] = reference_metrics.disagreement(*stretched, points, random, 1, 1.03)
    assert scores == pytest.approx(expected, rel=1e-6)
    assert 0 < scores["boundary_f1"] < 1
    assert scores["see"] > 0
    assert 0 < scores["d3r"] < scores["d3r_stretched"] < 2
    assert 0 < scores["ord"] < 2


def test_depth_scores_reject_a_map_of_another_size():
    with pytest.raises(UserError, match=r"shape \(3, 2\) cannot be compared .* \(2, 2\)"):
        scores_of(np.ones((3, 2)), truth_of(np.ones((2, 2))))


def test_depth_scores_compile_one_program_that_needs_little_memory(scene):
    truth, pred, _ = scene
    run, _ = tiled.compile_program(depth.depth_tile, tuple(jax.devices()[:1]))
    scores_of(pred, truth)
    programs = run._cache_size()
    part = (slice(20), slice(50))
    scores_of(pred[part], GroundTruth(truth.depth[part], truth.valid[part]))
    large = GroundTruth(np.tile(truth.depth, (3, 2)), np.tile(truth.valid, (3, 2)))
    scores_of(np.tile(pred, (3, 2)), large)
    assert run._cache_size() == programs
    shape = (1, TILE[0] + 2, TILE[1] + 2)
    batch = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (np.float32, np.float32, bool)]
    batch += [jax.ShapeDtypeStruct((1, n), np.float32) for n in (2, 1)]
    memory = run.lower(*batch).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 40 * 4 * shape[1] * shape[2]


@pytest.mark.slow
def test_depth_scores_of_a_4k_image_match_the_reference_to_six_digits():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:2160, :3840]
    true = (10 + 5 * np.sin(x / 300) + (y // 200 % 3) * 4).astype(np.float32)
    pred = (true * np.exp(rng.normal(0.02, 0.05, true.shape))).astype(np.float32)
    known = rng.random(true.shape) < 0.9
    truth = GroundTruth(np.where(known, true, 0).astype(np.float32), known)
    expected = reference_metrics.depth_errors(pred, true, truth.valid)
    expected["boundary_f1"] = reference_metrics.boundary_f1(pred, truth.depth)
    scores = metrics.depth_scores(pred, truth)
    worst = max(abs(scores[name] / expected[name] - 1) for name in expected)
    print(f"largest relative difference {worst:.1e}")
    assert worst < 1e-6
