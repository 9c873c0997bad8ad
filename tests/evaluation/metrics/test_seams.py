"""Seams at patch borders, and the consistency of overlapping patches."""

import math

import jax
import numpy as np
import pytest
from helpers import reference_metrics
from helpers.metric_maps import SIZE, TILE, truth_of

from urgt_jax.errors import UserError
from urgt_jax.evaluation import metrics
from urgt_jax.images import grid


def seams_of(pred, windows):
    pred = np.array(pred, np.float32)
    truth = truth_of(np.ones_like(pred))
    return metrics.seams(pred, truth, windows, jax.devices()[:1], TILE)


def test_seams_between_two_patches():
    halves = grid.cover_image(2, 4, 1, 2)
    scores = seams_of([[1, 1, 2, 2], [1, 1, 2, 2]], halves)
    assert scores == pytest.approx({"seam": math.log(2), "seam_elsewhere": 0})
    # One pixel further left, the step is in two of the eight pairs that cross no border.
    scores = seams_of([[1, 2, 2, 2], [1, 2, 2, 2]], halves)
    assert scores == pytest.approx({"seam": 0, "seam_elsewhere": 2 * math.log(2) / 8})


def test_seams_are_undefined_for_a_single_patch():
    scores = seams_of([[1, 2]], grid.cover_image(1, 2, 1, 1))
    assert math.isnan(scores["seam"])
    assert scores["seam_elsewhere"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_seams_match_the_reference(scene, overlap):
    truth, pred, _ = scene
    windows = grid.cover_image(*SIZE, 3, 4, overlap)
    scores = metrics.seams(pred, truth, windows, tile=TILE, devices=jax.devices()[:1])
    expected = reference_metrics.seams(pred, truth.depth, truth.valid, windows)
    assert scores == pytest.approx(expected, rel=2e-6)


def test_seams_reject_the_grid_of_another_image():
    with pytest.raises(UserError, match=r"grid on \(2, 3\)"):
        seams_of(np.ones((2, 2)), grid.cover_image(2, 3, 1, 1))


def test_consistency_of_two_patches_that_share_a_pixel():
    patches = np.array([[[1.0, 2]], [[5, 7]]])
    origins = np.array([[0, 0], [0, 1]])
    assert metrics.consistency(patches, origins, np.inf) == 5 - 2
    assert metrics.consistency(patches, origins, 4.0) == 4 - 2
    assert math.isnan(metrics.consistency(patches[:1], origins[:1], 4.0))  # nothing is shared


def test_consistency_matches_the_reference():
    windows = metrics.consistency_windows(48, 64)
    patches = np.random.default_rng(0).uniform(1, 9, (16, *windows.patch))
    expected = reference_metrics.consistency(patches, windows, 7.0)
    assert metrics.consistency(patches, windows.origins, 7.0) == pytest.approx(expected)


@pytest.mark.parametrize(("height", "width"), [(224, 392), (2160, 3840), (61, 83)])
def test_consistency_is_0_for_one_map_and_grows_with_seams(height, width):
    windows = metrics.consistency_windows(height, width)
    image = np.random.default_rng(0).random((height, width)).astype(np.float32)
    patches = np.stack(list(grid.cut_windows(image, windows)))
    assert metrics.consistency(patches, windows.origins, 80.0) == 0
    every_other = np.arange(16, dtype=np.float32)[:, None, None] % 2
    assert metrics.consistency(patches + every_other, windows.origins, 80.0) > 0.1


def test_consistency_windows_of_4k_are_the_published_ones():
    windows = metrics.consistency_windows(2160, 3840)
    assert windows.tops == (405, 675, 945, 1215)
    assert windows.lefts == (405, 1095, 1785, 2475)
    assert windows.patch == (540, 960)
