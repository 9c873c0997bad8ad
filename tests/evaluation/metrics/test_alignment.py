"""Alignments worked out by hand, and against plain references."""

import math

import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import truth_of

from urgt_jax.evaluation import metrics
from urgt_jax.evaluation.metrics import DepthProtocol, alignment

PRED = np.float32([[1, 2, 3, 4]])
TRUE = truth_of([[2, 4, 6, 12]])


def fit(align, pred=PRED, truth=TRUE, **fields):
    """Scale and shift of depth in metres."""
    found = DepthProtocol("depth", align, **fields).fit(np.float32(pred), truth)
    return found.scale, found.shift


def test_align_fits_two_pixels():
    # 1/depth is 1/2 and 1 at disparities 0 and 1; at -1 it would be 0, beyond the maximum depth.
    disparity = np.array([[0.0, 1.0]])
    fitted = metrics.align(disparity, np.array([[2.0, 1.0]]), np.ones((1, 2), bool))
    assert fitted[:2] == pytest.approx((0.5, 0.5))
    np.testing.assert_allclose(fitted.depth(np.array([0.0, 1.0, -1.0]), 80.0), [2, 1, 80])


def test_align_is_a_line_through_the_valid_pixels(scene):
    truth, pred, _ = scene
    disparity = 3 / pred + np.float32(1000)  # the spread is far smaller than the mean
    fitted = metrics.align(disparity, truth.depth, truth.valid)
    x = disparity[truth.valid].astype(float)
    y = 1 / truth.depth[truth.valid].astype(float)
    line = np.polyfit(x - 1000, y, 1)
    assert fitted.scale == pytest.approx(line[0], rel=1e-6)
    assert fitted.scale * 1000 + fitted.shift == pytest.approx(line[1], rel=1e-6)


def test_scales_of_four_pixels():
    assert fit("none") == (1, 0)
    assert fit("median") == (5 / 2.5, 0)
    # sum xy / sum xx
    assert fit("scale") == pytest.approx(((2 + 8 + 18 + 48) / (1 + 4 + 9 + 16), 0))
    # Ratios are 2, 2, 2 and 3; relative errors are smallest at 2, where three of them are 0.
    assert fit("scale_l1") == pytest.approx((2, 0))


def test_scale_and_shift_of_depth_of_four_pixels():
    # Means are 2.5 and 6; sum of products -1.5*-4 + -.5*-2 + 0 + 1.5*6 = 16, of squares 5.
    assert fit("depth") == pytest.approx((16 / 5, 6 - 2.5 * 16 / 5))
    assert fit("depth_l1") == pytest.approx((2, 0))


def test_all_pixels_have_the_sky_at_disparity_0_or_at_the_end_of_the_range():
    truth = truth_of([[1, 2, 100, np.inf, 0]])
    pred = np.float32([[1, 2, 50, 80, 3]])
    protocol = DepthProtocol("depth", "disparity", pixels="all")
    found = protocol.fit(pred, truth)
    line = np.polyfit([1, 1 / 2, 1 / 50, 1 / 80], [1, 1 / 2, 1 / 100, 0], 1)
    assert found[:2] == pytest.approx(tuple(line), rel=1e-6)
    valid = DepthProtocol("depth", "disparity").fit(pred, truth)
    assert valid[:2] == pytest.approx((1, 0), abs=1e-6)
    scale, _ = fit("scale", pred, truth, pixels="all")
    assert scale == pytest.approx((1 + 4 + 50 * 80 + 80 * 80) / (1 + 4 + 2500 + 6400))


@pytest.mark.parametrize("align", ["median", "scale", "depth", "disparity", "scale_l1", "depth_l1"])
def test_alignment_undoes_its_own_transformation(align, scene):
    truth, _, _ = scene
    known = np.where(truth.known, truth.depth, 5).astype(np.float32)
    changed = {
        "depth": 0.5 * known + 1,
        "depth_l1": 0.5 * known + 1,
        "disparity": 1 / (0.7 / known + 0.02),
    }
    pred = changed.get(align, 0.25 * known).astype(np.float32)
    metres = metrics.to_metres(pred, truth, DepthProtocol("depth", align))
    np.testing.assert_allclose(metres[truth.known], truth.depth[truth.known], rtol=1e-5)


@pytest.mark.parametrize("with_shift", [False, True])
@pytest.mark.parametrize("largest", [math.inf, 1.0, 0.1])
def test_fit_l1_matches_all_lines_tried_one_by_one(with_shift, largest):
    rng = np.random.default_rng(3)
    x = rng.uniform(1, 9, (4, 5))
    y = 2 * x + 1 + rng.normal(0, 0.3, x.shape)
    y[0] = rng.uniform(1, 40, 5)  # outliers
    valid = np.ones(x.shape, bool)
    found = alignment.fit_l1(x, y, valid, with_shift, largest)
    expected = reference_metrics.l1_fit(x.ravel(), y.ravel(), largest, with_shift)
    assert found == pytest.approx(expected, rel=1e-9)


def test_sample_pixels_takes_the_valid_pixel_nearest_to_the_centre_of_each_cell():
    valid = np.zeros((64 * 3, 64 * 5), bool)
    valid[1, 2] = valid[0, 0] = True  # the centre of the first cell, and its corner
    valid[191, 319] = True  # the corner of the last cell
    rows, columns = alignment.sample_pixels(valid)
    assert list(zip(rows, columns, strict=True)) == [(1, 2), (191, 319)]


@pytest.mark.parametrize("align", ["median", "scale", "depth", "disparity", "scale_l1", "depth_l1"])
def test_alignment_leaves_out_pixels_without_an_estimate(align):
    truth = truth_of([[2, 4, 6, 8, 3, 3, 3, 3]])
    pred = np.float32([[1, 2, 3, 4, 0, -1, np.nan, np.inf]])
    metres = metrics.to_metres(pred, truth, DepthProtocol("depth", align))
    np.testing.assert_allclose(metres[0, :4], [2, 4, 6, 8], rtol=1e-5)
    np.testing.assert_allclose(metres[0, 4:], [1e-3, 1e-3, 1e-3, 80])
