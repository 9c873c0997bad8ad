"""Memory of compiled stages."""

import math

import jax
import numpy as np
import pytest
from helpers.studies import make_point

from urgt_jax.config import Config
from urgt_jax.inference.refiner import Refiner
from urgt_jax.inference.stages import Stages
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.scaling import forward_benchmark, memory, points


def test_stage_inputs_have_the_shapes_that_the_refiner_passes(small, monkeypatch):
    """The shapes are written down in inference/refiner.py and in scaling/memory.py."""
    pixels = 8 * 2 * math.prod(small.patch_size)  # two patches at a time
    monkeypatch.setattr("urgt_jax.inference.refiner.HEAD_PIXELS", pixels)
    refiner = Refiner(forward_benchmark.random_weights(small), Config(model=small))
    seen = {}
    expected = {}
    for name, (arrays, _) in memory.stage_inputs(small, 3, None, 1).items():
        expected[name] = arrays

    def fake(name, stage):
        out = jax.eval_shape(stage, refiner.params, *expected[name])

        def record(params, *arrays):
            seen[name] = _shapes(arrays)
            return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), out)

        return record

    refiner.stages = Stages(*map(fake, Stages._fields, refiner.stages))
    rows, cols = small.patch_size
    refiner(*forward_benchmark.noise_inputs(rows, 3 * cols), grid=(1, 3), overlap=0.0)
    assert seen == {name: _shapes(arrays) for name, arrays in expected.items()}


def _shapes(arrays):
    return [(x.shape, np.dtype(x.dtype)) for x in jax.tree.leaves(arrays)]


@pytest.mark.slow
def test_compiled_memory_holds_tokens_and_layers(small):
    stages = memory.compiled("micro", 3, "float32")
    tokens = 3 * small.tokens[0] * small.tokens[1] * small.width * 4  # bytes
    layers = len(set(small.dpt_layers)) * 3 * tokens_per_patch(small) * 2 * small.width * 4
    assert stages["heads"].held == layers <= stages["attend"].output <= layers + 64
    assert tokens <= stages["attend"].argument <= 2 * tokens
    assert all(stage.temporary > 0 for stage in stages.values())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])  # a patch's six tokens are no multiple of four
def test_compiled_memory_per_device_does_not_grow_with_devices(devices):
    """Devices with a patch each hold what one does with one, and what they exchange."""
    shared, alone = (memory.compiled("micro", n, "float32", n) for n in (devices, 1))
    for name in Stages._fields:
        assert shared[name].argument == alone[name].argument
        assert shared[name].output == pytest.approx(alone[name].output, rel=0.01)
        assert shared[name].total == pytest.approx(alone[name].total, rel=0.3)


@pytest.mark.slow
def test_training_memory_grows_with_patches_and_less_with_remat(small):
    def training(patches: int, remat: str) -> dict:
        return points.training(make_point("training", patches, size="micro", remat=remat))

    few = training(8, "none")
    many = training(16, "none")
    assert few["memory_argument"] > 3 * 4 * few["parameters"]  # with the optimiser's two moments
    grown = many["memory_temporary"] - few["memory_temporary"]
    assert 0.8 * few["memory_temporary"] < grown < 1.1 * few["memory_temporary"]
    assert training(16, "blocks")["memory_temporary"] < many["memory_temporary"]
