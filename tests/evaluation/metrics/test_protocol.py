"""The depth protocol: alignment, metres at the size of the ground truth, and the depth range."""

import math

import numpy as np
import pytest
from helpers.metric_maps import truth_of

from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.metrics import DepthProtocol, GroundTruth

METRIC = DepthProtocol("depth", "none")
RELATIVE = DepthProtocol("disparity", "disparity")


def test_protocol_describes_itself():
    assert str(METRIC) == "depth in metres, no alignment, 0.001 to 80 m"
    assert "least squares" in str(RELATIVE)


def test_align_fits_two_pixels():
    # 1/depth is 1/2 and 1 at disparities 0 and 1; at -1 it would be 0, beyond the maximum depth.
    disparity = np.array([[0.0, 1.0]])
    fit = metrics.align(disparity, np.array([[2.0, 1.0]]), np.ones((1, 2), bool))
    assert fit == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(fit.depth(np.array([0.0, 1.0, -1.0]), 80.0), [2, 1, 80])


def test_align_is_a_line_through_the_valid_pixels(scene):
    truth, pred, _ = scene
    disparity = 3 / pred + np.float32(1000)  # the spread is far smaller than the mean
    fit = metrics.align(disparity, truth.depth, truth.valid)
    x = disparity[truth.valid].astype(float)
    y = 1 / truth.depth[truth.valid].astype(float)
    line = np.polyfit(x - 1000, y, 1)
    assert fit.scale == pytest.approx(line[0], rel=1e-6)
    assert fit.scale * 1000 + fit.shift == pytest.approx(line[1], rel=1e-6)


def test_align_ignores_pixels_beyond_the_depth_range():
    truth = truth_of([[1, 2, 4, 100]])
    metres = metrics.to_metres(np.array([[1, 0.5, 0.25, 3]]), truth, RELATIVE)
    np.testing.assert_allclose(metres[0, :3], [1, 2, 4], rtol=1e-6)


def test_align_puts_a_constant_prediction_at_the_mean_disparity():
    metres = metrics.to_metres(np.full((2, 2), 0.3), truth_of([[1, 2], [1, 2]]), RELATIVE)
    np.testing.assert_allclose(metres, 1 / 0.75, rtol=1e-6)


def test_to_metres_resizes_bilinearly_without_antialiasing():
    truth = truth_of([[1, 1, 1, 1]])
    metres = metrics.to_metres(np.array([[1.0, 2.0]]), truth, METRIC)
    np.testing.assert_allclose(metres, [[1, 1.25, 1.75, 2]])
    # Also when the map shrinks, only the two nearest pixels count.
    wide = np.array([[1.0, 9, 3, 5, 9, 9, 9, 9, 9, 9, 9, 9]])
    metres = metrics.to_metres(wide, truth, METRIC)
    np.testing.assert_allclose(metres[0, :2], [9, 9])


def test_to_metres_clamps_nan_and_infinity():
    truth = truth_of([[1, 2, 4, 5, 8]])
    values = np.array([[np.nan, np.inf, -np.inf, -3, 500]])
    metres = metrics.to_metres(values, truth, METRIC)
    np.testing.assert_allclose(metres, [[1e-3, 80, 1e-3, 1e-3, 80]])
    values = np.array([[np.nan, 0.5, 0.25, np.inf, 0.125]])  # the finite ones are 1/depth
    metres = metrics.to_metres(values, truth, RELATIVE)
    np.testing.assert_allclose(metres, [[1e-3, 2, 4, 1e-3, 8]])


def test_to_metres_aligns_metric_depth_too():
    truth = truth_of([[1, 2, 4, 5]])
    protocol = DepthProtocol("depth", "disparity")
    metres = metrics.to_metres(7 * truth.depth, truth, protocol)
    np.testing.assert_allclose(metres, truth.depth, rtol=1e-5)


def test_limit_excludes_both_ends_of_the_depth_range():
    truth = GroundTruth(np.array([[1e-3, 2, 80, np.nan]]), np.ones((1, 4), bool))
    assert METRIC.limit(truth).valid.tolist() == [[False, True, False, False]]


def test_without_valid_pixels_there_is_no_alignment(scene):
    truth, pred, _ = scene
    empty = truth._replace(valid=np.zeros_like(truth.valid))
    fit = metrics.align(pred, empty.depth, empty.valid)
    assert math.isnan(fit.scale) and math.isnan(fit.shift)
    assert (metrics.to_metres(pred, empty, RELATIVE) == np.float32(1e-3)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("disparity", "none"), "set align to disparity"),
        (("metres", "none"), "kind must be depth or disparity"),
        (("depth", "none", 1e-4), "not a valid depth range"),
        (("depth", "none", np.nan), "not a valid depth range"),
    ],
)
def test_protocol_rejects_settings_that_do_not_go_together(arguments, message):
    with pytest.raises(UserError, match=message):
        DepthProtocol(*arguments)


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (np.ones((2, 2, 1)), r"shape \(2, 2, 1\)"),
        (np.ones((0, 2)), r"shape \(0, 2\)"),
        (np.ones((2, 2), complex), "dtype complex128"),
    ],
)
def test_to_metres_rejects_what_is_not_a_map_of_numbers(pred, message):
    with pytest.raises(UserError, match=message):
        metrics.to_metres(pred, truth_of([[1, 2], [1, 2]]), METRIC)
