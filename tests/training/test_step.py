"""The training step: skipped steps, one program per number of patches, one and eight devices."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest

from urgt_jax.config import Config, Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix, pipeline
from urgt_jax.training import sharding
from urgt_jax.training.step import digest, initial_state, state_shardings, train_step


@pytest.fixture(scope="module")
def steps(depth_only, mesh, first_state):
    """(state, metrics, verdict) after a step on a sound batch, and on one with a NaN."""
    sound = pipeline.Batches(depth_only)[0]
    spoiled = sound | {"coarse_depth": sound["coarse_depth"].copy()}
    spoiled["coarse_depth"][3, 0, 5, 5] = np.nan

    def run(batch: dict) -> tuple:
        state = jax.device_put(first_state, state_shardings(depth_only, mesh))
        return jax.device_get(train_step(depth_only, mesh)(state, batch))

    return {"sound": run(sound), "spoiled": run(spoiled)}


def test_step_without_a_finite_gradient_changes_nothing(first_state, steps):
    state, _, verdict = steps["spoiled"]
    jax.tree.map(np.testing.assert_array_equal, state.params, first_state.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, first_state.opt_state)
    assert (state.step, state.skipped, verdict.usable) == (1, 1, False)
    state, _, verdict = steps["sound"]
    assert (state.step, state.skipped, verdict.usable) == (1, 0, True)


def test_image_errors_point_to_the_image_that_spoils_a_step(steps):
    errors = steps["spoiled"][2].image_errors
    assert np.flatnonzero(~np.isfinite(errors)).tolist() == [3]
    sound = steps["sound"][2].image_errors
    np.testing.assert_allclose(np.delete(errors, 3), np.delete(sound, 3), rtol=1e-6)


def test_digest_sees_a_single_bit(first_state):
    before = digest(first_state)
    leaves, tree = jax.tree.flatten(first_state)
    changed = leaves[-1].copy()
    changed.reshape(-1).view(np.uint32)[-1] ^= 1
    after = digest(jax.tree.unflatten(tree, [*leaves[:-1], changed]))
    assert np.flatnonzero(before != after).tolist() == [len(leaves) - 1]


@pytest.fixture(scope="module")
def all_sides(micro) -> Config:
    """Blocks of every number of patches. One output is quicker to compile than two."""
    return with_changes(micro, {"model.outputs": ("depth",)})


@pytest.fixture(scope="module")
def by_devices(all_sides) -> dict:
    """Initial weights, metrics and gradient of one step on one and on eight devices."""
    step = next(k for k in range(99) if gridmix.block_side(all_sides, k) == 2)
    batch = pipeline.Batches(all_sides)[step]
    results = {}
    for count in (1, 8):
        config = dataclasses.replace(all_sides, mesh=Mesh(data=count))
        mesh = sharding.make_mesh(config)
        state = initial_state(config, mesh)
        params = jax.device_get(state.params)  # before the step donates them
        state, metrics, _ = train_step(config, mesh)(state, batch)
        # Adam's first moment after one step is a tenth of the clipped gradient.
        gradient = optax.tree_utils.tree_get(state.opt_state, "mu")
        results[count] = jax.device_get((params, metrics, gradient))
    return results


def test_initial_weights_do_not_depend_on_the_devices(by_devices):
    jax.tree.map(np.testing.assert_array_equal, by_devices[1][0], by_devices[8][0])


def _norm(tree: dict) -> float:
    return math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))


def test_eight_devices_compute_the_step_of_one(by_devices):
    _, metrics, gradient = by_devices[1]
    _, metrics8, gradient8 = by_devices[8]
    for name in metrics:
        np.testing.assert_allclose(metrics8[name], metrics[name], rtol=1e-5, err_msg=name)
    difference = jax.tree.map(lambda a, b: a - b, gradient, gradient8)
    assert _norm(difference) <= 1e-5 * _norm(gradient)


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator")
def test_accelerator_takes_the_step_of_the_cpu(all_sides):
    step = next(k for k in range(99) if gridmix.block_side(all_sides, k) == 2)
    batch = pipeline.Batches(all_sides)[step]
    results = []
    for platform in ("cpu", jax.default_backend()):
        mesh = sharding.make_mesh(all_sides, jax.devices(platform)[:1])
        state, metrics, _ = train_step(all_sides, mesh)(initial_state(all_sides, mesh), batch)
        gradient = optax.tree_utils.tree_get(state.opt_state, "mu")
        results.append(jax.device_get((metrics, gradient)))
    (metrics, gradient), (accelerator_metrics, accelerator_gradient) = results
    for name in metrics:
        value = accelerator_metrics[name]
        np.testing.assert_allclose(value, metrics[name], rtol=1e-4, err_msg=name)
    difference = jax.tree.map(lambda a, b: a - b, gradient, accelerator_gradient)
    assert _norm(difference) <= 1e-4 * _norm(gradient)


def test_step_is_compiled_once_per_number_of_patches(all_sides: Config):
    mesh = sharding.make_mesh(all_sides)
    state = initial_state(all_sides, mesh)
    run = train_step(all_sides, mesh)
    batches = pipeline.Batches(all_sides)
    seen = []
    steps = [k for k in range(99) if gridmix.block_side(all_sides, k) <= 2]
    for k in steps[:6]:
        side = gridmix.block_side(all_sides, k)
        compiled = run._cache_size()
        state, *_ = run(state, jax.device_put(batches[k], sharding.image_sharding(mesh)))
        # A test before this one may have compiled a side that is new here.
        assert run._cache_size() - compiled <= (0 if side in seen else 1)
        seen.append(side)
    assert sorted(set(seen)) == [1, 2] and len(seen) > 2
