"""Offloaded attention against attention over all patches at once."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.random_refiner import random_params

from urgt_jax.images import grid
from urgt_jax.inference import offload
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models.refiner import SPECIAL_TOKENS

ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}  # share of the largest value


@pytest.mark.parametrize(
    "resident,pool,changes",
    [
        (2, 2, {}),
        pytest.param(2, 1, {}, marks=pytest.mark.slow),
        pytest.param(4, 1, {"dtype": "bfloat16", "rope": "local"}, marks=pytest.mark.slow),
        (2, 2, {"cross_patch": False}),
    ],
)
def test_attend_equals_the_attend_stage(micro, resident, pool, changes):
    model = replace(micro.model, **changes)
    params = random_params(model)
    windows = grid.cover_image(60, 90, 1, 5)  # the last chunk is padded
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((5, 6, model.width)).astype(jnp.dtype(model.dtype))
    positions = np.asarray(grid.token_positions(windows.origins, windows.patch, model.tokens))
    expected = jit_stages(model, pool).attend(params, tokens[None], positions[None])
    shares = []
    layers = offload.attend(params, model, tokens, positions, resident, pool, shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert layers.shape == (len(expected), *expected.shape[2:])
    for ours, theirs in zip(layers, expected, strict=True):
        assert ours.dtype == theirs.dtype
        ours = np.asarray(ours, np.float32)
        theirs = np.asarray(theirs[0], np.float32)
        atol = ROUNDING[model.dtype] * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("room,resident", [(6.5, None), (5.5, 1), (0.1, 1), (100, None)])
def test_patches_that_fit_leaves_room_for_queries_and_two_chunks_of_keys(
    micro, monkeypatch, room, resident
):
    tokens = SPECIAL_TOKENS + 6
    per_patch = offload.ARRAYS_PER_PATCH * tokens * micro.model.width * 4 / offload.MEMORY_SHARE
    monkeypatch.setattr(offload, "free_device_memory", lambda: room * per_patch)
    assert offload.patches_that_fit(micro.model, 6) == resident


def test_patches_that_fit_uses_the_memory_that_the_device_reports(micro, monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

        def memory_stats(self):
            return {"bytes_limit": 3_000_000, "bytes_in_use": 1_000_000}

    monkeypatch.setattr(offload.jax, "local_devices", lambda: [Device()])
    per_patch = offload.ARRAYS_PER_PATCH * (SPECIAL_TOKENS + 6) * micro.model.width * 4
    fitting = int(offload.MEMORY_SHARE * 2_000_000 / per_patch)
    assert offload.patches_that_fit(micro.model, fitting) is None
    assert offload.patches_that_fit(micro.model, fitting + 1) == fitting // 3
