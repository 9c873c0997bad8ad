"""The verdict in one line on refined maps whose truth lies beside the image."""

import numpy as np
import pytest

from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.verdict import Maps, mean_angle, relative_error, verdict


@pytest.fixture
def truth() -> Maps:
    depth = np.random.default_rng(0).uniform(2, 9, (8, 10)).astype(np.float32)
    normal = np.zeros((8, 10, 3), np.float32)
    normal[..., 2] = -1
    return Maps(depth, normal, True)


def _leaning(degrees: float) -> np.ndarray:
    normal = np.zeros((8, 10, 3), np.float32)
    normal[..., 0] = np.sin(np.radians(degrees))
    normal[..., 2] = -np.cos(np.radians(degrees))
    return normal


def test_relative_error_of_metres_and_of_disparity_at_any_scale(truth):
    valid = np.ones(truth.depth.shape, bool)
    assert relative_error(truth.depth * 1.1, truth.depth, valid, True) == pytest.approx(0.1, 1e-4)
    disparity = (5 / truth.depth + 3).astype(np.float32)
    assert relative_error(disparity, truth.depth, valid, False) < 1e-5


def test_relative_error_of_disparity_is_that_of_urgt_eval(truth):
    valid = np.ones(truth.depth.shape, bool)
    noise = np.random.default_rng(1).normal(0, 0.05, truth.depth.shape)
    disparity = (1 / truth.depth + noise).astype(np.float32)
    protocol = metrics.DepthProtocol("disparity", "disparity")
    metres = metrics.to_metres(disparity, metrics.GroundTruth(truth.depth, valid), protocol)
    expected = np.abs(metres / truth.depth - 1).mean()
    assert relative_error(disparity, truth.depth, valid, False) == pytest.approx(expected, 1e-5)


def test_mean_angle_ignores_pixels_without_a_true_normal(truth):
    normal = truth.normal.copy()
    normal[0] = 0
    assert mean_angle(_leaning(3.0), normal) == pytest.approx(3, abs=1e-3)


def test_verdict_compares_with_the_truth_beside_the_image(tmp_path, truth):
    image = tmp_path / "scene.png"
    coarse = Maps(truth.depth * 1.1, _leaning(4.0), True)
    refined = Maps(truth.depth * 1.05, _leaning(4.01), True)
    assert verdict(image, coarse, refined) == ""
    np.save(tmp_path / "scene_true_depth.npy", truth.depth)
    np.save(tmp_path / "scene_true_normal.npy", truth.normal)
    assert verdict(image, coarse, refined) == (
        "AbsRel 0.1000 before, 0.0500 now: 50% lower; "
        "normals 4.00 degrees before, 4.01 degrees now: the same"
    )
    small = Maps(refined.depth[1:], refined.normal[1:], True)
    assert verdict(image, coarse, small) == ""
