"""The refiner that comes with the package does what it is shipped for."""

import numpy as np

import urgt_jax
from urgt_jax.data.priors.degrade import STRENGTHS, degrade
from urgt_jax.data.priors.units import depth_target, fit_disparity
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.weights.weight_file import shipped_weights


def test_the_shipped_refiner_is_small_and_improves_scenes_unlike_those_it_was_trained_on():
    assert shipped_weights()["scenes-small"].stat().st_size < 25e6
    refiner, found = urgt_jax.load("scenes-small"), []
    for seed in range(4):
        view = render(sample_scene(seed, "other"), 224, 392)
        rng, truth = np.random.default_rng(seed), (view.depth, view.normal, view.valid)
        depth, normal = degrade(*truth, STRENGTHS["middle"], rng, 80.0, view.image)
        want = depth_target(*truth[::2], fit_disparity(*truth[::2], depth), "disparity", 80.0)
        result = refiner(view.image, depth, normal)
        error = [np.abs(x - want)[view.valid].mean() for x in (depth, result.depth)]
        found.append(error[1] / error[0])
    assert np.mean(found) < 0.75, found
