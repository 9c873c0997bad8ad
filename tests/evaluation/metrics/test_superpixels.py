"""Superpixels, their centres and their neighbours."""

import numpy as np

from urgt_jax.evaluation.metrics import superpixels


def test_superpixels_are_about_as_many_as_asked_for_and_numbered_from_0():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:48j, -1:1:60j]
    values = np.clip(np.hypot(y, x) + 0.1 * rng.normal(size=(48, 60)), 0, 1)
    labels = superpixels.superpixels(values, 80)
    count = labels.max() + 1
    assert 60 <= count <= 100
    assert set(np.unique(labels)) == set(range(count))


def test_superpixels_end_at_steps():
    step = np.where(np.arange(60) < 33, 0.2, 0.8) * np.ones((40, 1))
    labels = superpixels.superpixels(step, 24)
    assert not set(labels[:, :33].ravel()) & set(labels[:, 33:].ravel())


def test_centres_and_neighbours_of_three_superpixels():
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    assert superpixels.centres(labels).tolist() == [[0, 0], [0, 2], [1, 0]]
    assert superpixels.adjacent(labels).tolist() == [[0, 1], [0, 2], [1, 2]]
