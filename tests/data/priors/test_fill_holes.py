"""Holes of a map are filled from the known pixels around them."""

import numpy as np

from urgt_jax.data.priors.fill_holes import fill_holes


def test_fill_holes_fills_from_around_them_and_keeps_the_rest():
    rng = np.random.default_rng(1)
    plane = np.add.outer(np.linspace(1, 2, 37), np.linspace(0, 1, 53)).astype(np.float32)
    valid = rng.random(plane.shape) < 0.6
    valid[10:20, 15:30] = False
    holes = np.where(valid, plane, np.nan).astype(np.float32)
    filled = fill_holes(holes, valid)
    assert (filled[valid] == plane[valid]).all()
    assert np.abs(filled - plane).max() < 0.25
    assert filled.min() >= plane[valid].min() and filled.max() <= plane[valid].max()
    assert (fill_holes(holes, np.zeros_like(valid)) == 0).all()
