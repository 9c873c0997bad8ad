"""The refiner that comes with the package does what it is shipped for."""

import numpy as np

import urgt_jax
from urgt_jax.data.priors.degrade import STRENGTHS, degrade
from urgt_jax.data.priors.units import fit, target
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.weights.weight_file import shipped


def test_the_shipped_refiner_is_small_and_improves_scenes_unlike_those_it_was_trained_on():
    assert shipped()["scenes-small"].stat().st_size < 25e6
    refiner, found = urgt_jax.load("scenes-small"), []
    for seed in range(4):
        view = render(sample_scene(seed, "other"), 224, 392)
        rng, truth = np.random.default_rng(seed), (view.depth, view.normal, view.valid)
        depth, normal = degrade(*truth, STRENGTHS["middle"], rng, 80.0, view.image)
        want = target(*truth[::2], fit(*truth[::2], depth), "disparity", 80.0)
        result = refiner(view.image, depth, normal)
        error = [np.abs(x - want)[view.valid].mean() for x in (depth, result.depth)]
        found.append(error[1] / error[0])
    assert np.mean(found) < 0.75, found
