"""Crops of examples: where things are thin, and where patches meet worst."""

import numpy as np
from helpers.report_layers import SHAPE, layers_with_known_errors

from urgt_jax.evaluation import report
from urgt_jax.evaluation.report.zooms import CROP
from urgt_jax.images.grid import cover_image


def layers_of_a_post(shape=(300, 400), top=30, left=200):
    """A wall behind a post of three pixels, and an error at a corner of four patches."""
    truth = np.full(shape, 0.2, np.float32)
    truth[top : top + 100, left : left + 3] = 0.5
    refined = truth.copy()
    refined[248:252, 98:102] *= 1.5
    depth = {"coarse": truth, "refined": refined, "truth": truth}
    valid = np.ones(shape, bool)
    return report.Layers(np.zeros((*shape, 3), np.uint8), depth, {}, valid, valid)


def test_zooms_show_thin_things_and_the_worst_corner_of_patches():
    layers = layers_of_a_post()
    windows = cover_image(*layers.valid.shape, 6, 4)  # corners at every 50 rows and 100 columns
    thin, corner = report.zooms(layers, windows)
    assert thin.valid.shape == corner.valid.shape == CROP
    assert (thin.depth["truth"] == 0.5).sum() == 300
    assert (corner.depth["refined"] != corner.depth["truth"]).sum() == 16
    assert set(corner.depth) == set(layers.depth)
    assert not corner.normal


def test_zooms_are_none_without_thin_things_and_corners():
    flat = {"refined": np.ones((300, 400)), "truth": np.ones((300, 400))}
    layers = layers_of_a_post()._replace(depth=flat)
    assert report.zooms(layers, cover_image(300, 400, 1, 1)) == []


def test_zooms_of_a_small_image_are_the_whole_image():
    zooms = report.zooms(layers_with_known_errors(), cover_image(*SHAPE, 2, 2))
    assert [zoom.valid.shape for zoom in zooms] == [SHAPE, SHAPE]


def test_reduced_takes_every_nth_pixel():
    large = layers_with_known_errors((50, 1000))
    small = report.reduced(large)
    assert small.valid.shape == (17, 334)
    np.testing.assert_array_equal(small.depth["refined"], large.depth["refined"][::3, ::3])
    np.testing.assert_array_equal(small.image, large.image[::3, ::3])
