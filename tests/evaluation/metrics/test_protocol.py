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
    assert str(METRIC) == "depth in metres, no alignment, 0.001 to 80 m, holes count as errors"
    assert "least squares" in str(RELATIVE) and "over valid pixels" in str(RELATIVE)
    unusual = DepthProtocol(
        "depth",
        "disparity",
        10.0,
        pixels="all",
        holes="left_out",
        clamp="image",
        corners=True,
        cap_consistency=False,
    )
    assert str(unusual) == (
        "depth in metres, least squares of disparity to 1/depth per image over all pixels, sky at "
        "disparity 0, 0.001 to 10 m, clamped at the largest true depth of the image, resized with "
        "aligned corners, CE without a cap, holes left out"
    )
    truncated = DepthProtocol("depth", "depth_l1", truncate=1.0)
    assert "weighted by 1/depth per image over valid pixels, errors above 1 tr" in str(truncated)


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


def test_to_metres_resizes_with_aligned_corners():
    truth = truth_of([[1, 1, 1, 1]])
    protocol = DepthProtocol("depth", "none", corners=True)
    metres = metrics.to_metres(np.array([[1.0, 4.0]]), truth, protocol)
    np.testing.assert_allclose(metres, [[1, 2, 3, 4]], rtol=1e-6)


def test_to_metres_clamps_aligned_disparity_at_the_largest_true_depth():
    truth = truth_of([[1, 2, 4, 0]])
    protocol = DepthProtocol("disparity", "disparity", clamp="image")
    metres = metrics.to_metres(np.array([[1, 0.5, 0.25, 0]]), truth, protocol)
    np.testing.assert_allclose(metres, [[1, 2, 4, 4]], rtol=1e-6)
    metres = metrics.to_metres(np.array([[1, 0.5, 0.25, 0]]), truth, RELATIVE)
    np.testing.assert_allclose(metres, [[1, 2, 4, 80]], rtol=1e-6)


def test_without_estimate_finds_holes_of_depth_and_of_disparity():
    values = np.array([[1, 0, -1, np.nan, np.inf, -np.inf]])
    holes = metrics.without_estimate(values, (1, 6), METRIC)
    assert holes.tolist() == [[False, True, True, True, True, True]]
    holes = metrics.without_estimate(values, (1, 6), RELATIVE)
    assert holes.tolist() == [[False, False, False, True, True, True]]
    # A pixel between a hole and a number has no estimate either.
    holes = metrics.without_estimate(np.array([[0.0, 2.0]]), (1, 4), METRIC)
    assert holes.tolist() == [[True, True, True, False]]


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
    for align in ("disparity", "depth", "scale", "median", "scale_l1", "depth_l1"):
        protocol = DepthProtocol("depth", align)
        assert math.isnan(protocol.fit(pred, empty).scale)
        assert (metrics.to_metres(pred, empty, protocol) == np.float32(1e-3)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("disparity", "none"), "set align to disparity"),
        (("metres", "none"), "kind must be depth or disparity"),
        (("disparity", "median"), "align median fits depth"),
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
