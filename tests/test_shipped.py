"""The refiner that comes with the package does what it is shipped for."""

import numpy as np

import urgt_jax
from urgt_jax import checkpoints
from urgt_jax.data import priors
from urgt_jax.data.scenes import render, sample_scene


def test_the_shipped_refiner_is_small_and_improves_scenes_unlike_those_it_was_trained_on():
    assert checkpoints.shipped()["scenes-small"].stat().st_size < 25e6
    refiner, found = urgt_jax.load("scenes-small"), []
    for seed in range(4):
        view = render(sample_scene(seed, "other"), 224, 392)
        rng, truth = np.random.default_rng(seed), (view.depth, view.normal, view.valid)
        depth, normal = priors.degrade(*truth, priors.STRENGTHS["middle"], rng, 80.0, view.image)
        want = priors.target(*truth[::2], priors.fit(*truth[::2], depth), "disparity", 80.0)
        result = refiner(view.image, depth, normal)
        error = [np.abs(x - want)[view.valid].mean() for x in (depth, result.depth)]
        found.append(error[1] / error[0])
    assert np.mean(found) < 0.75, found
