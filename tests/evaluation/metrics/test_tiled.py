"""Tiles: neither their size nor the number of devices changes the scores."""

import math

import jax
import numpy as np
import pytest
from helpers.metric_maps import SIZE, TILE

from urgt_jax.evaluation import metrics
from urgt_jax.images import grid


def all_scores(scene, tile, devices):
    truth, pred, normal = scene
    angles, counts = metrics.normal_scores(normal, truth, devices, tile)
    scores = {f"normal_{name}": score for name, score in angles.items()}
    scores |= metrics.depth_scores(pred, truth, devices, tile)
    scores |= metrics.seams(pred, truth, grid.cover_image(*SIZE, 2, 3), devices, tile)
    scores["agreement"] = metrics.agreement(pred, normal, truth, devices, tile)
    return scores, counts


def test_one_device_and_eight_give_the_same_bits(scene):
    one, counts = all_scores(scene, TILE, jax.devices()[:1])
    eight, counts_of_eight = all_scores(scene, TILE, jax.devices())
    assert len(jax.devices()) == 8
    assert one == eight
    np.testing.assert_array_equal(counts, counts_of_eight)


def test_tiles_of_any_size_give_the_same_scores(scene):
    small, counts = all_scores(scene, TILE, jax.devices()[:1])
    whole, _ = all_scores(scene, (40, 56), jax.devices()[:1])
    # A normal may move to the next bin, because the camera that is moved to a tile is rounded.
    assert whole == pytest.approx(small, rel=1e-6, abs=1e-3 / counts.sum())
    for name in ("boundary_f1", "delta1", "delta2", "delta3", "d3r"):
        assert whole[name] == small[name]


def test_scores_are_nan_without_valid_pixels(scene):
    truth, pred, normal = scene
    empty = truth._replace(valid=np.zeros_like(truth.valid))
    scores, counts = all_scores((empty, pred, normal), TILE, jax.devices()[:1])
    assert all(math.isnan(score) for score in scores.values())
    assert counts.sum() == 0
