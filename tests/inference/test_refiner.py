"""The refiner: plan and run, rows against whole maps, loading, progress."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from etils.epath import Path
from helpers import tiny_prior_networks
from helpers.random_refiner import image_with_coarse_maps, random_params

import urgt_jax
from urgt_jax.errors import UserError
from urgt_jax.images import rows as rows_module
from urgt_jax.inference import refiner as refiner_module
from urgt_jax.inference.modes import ExactMode, OfficialMode
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.weights.weight_file import save_weights

SIZE = (41, 67)


@pytest.fixture(scope="module")
def params(micro):
    """Random weights."""
    return random_params(micro.model)


@pytest.fixture(scope="module")
def weights(micro, params, tmp_path_factory):
    """A work directory with these weights."""
    workdir = Path(tmp_path_factory.mktemp("weights"))
    save_weights(workdir / "weights.safetensors", params, micro)
    return workdir


def with_eval(config, **changes):
    """The configuration with other evaluation settings."""
    return replace(config, eval=replace(config.eval, **changes))


def test_plan_gives_the_number_of_patches_and_keeps_the_image_in_exact_mode(micro, params):
    image, _, _ = image_with_coarse_maps(SIZE)
    job = Refiner(params, micro).plan(image, grid=(2, 3), overlap=0.5)
    assert job.patches == 3 * 5
    assert job.image is image
    assert job.size == SIZE


def test_plan_shrinks_the_image_to_a_multiple_of_the_grid_in_official_mode(micro, params):
    image, _, _ = image_with_coarse_maps(SIZE)
    job = Refiner(params, with_eval(micro, fidelity="official")).plan(image, grid=(2, 3))
    assert job.image.shape == (40, 66, 3)
    assert job.size == SIZE
    assert job.patches == 6


def test_plan_takes_grid_and_overlap_from_the_weights(micro, params):
    image, _, _ = image_with_coarse_maps(SIZE)
    job = Refiner(params, with_eval(micro, grid=(1, 2), overlap=0.5)).plan(image)
    assert job.patches == 3


def test_plan_rejects_an_image_of_floats(micro, params):
    image, _, _ = image_with_coarse_maps(SIZE)
    with pytest.raises(UserError, match=r"dtype float32: give \[H, W, 3\] uint8"):
        Refiner(params, micro).plan(image.astype(np.float32))


def test_refiner_gives_each_image_of_a_batch_what_it_gives_alone(micro, params):
    refiner = Refiner(params, micro)
    inputs = [image_with_coarse_maps(SIZE, seed) for seed in (0, 1)]
    shares = []

    def follow(done, count):
        shares.append(done / count)

    # Arrays of JAX on the one hand, of numpy on the other.
    stacked = [jax.numpy.stack(arrays) for arrays in zip(*inputs, strict=True)]
    together = refiner(*stacked, grid=(2, 3), progress=follow)
    assert shares == sorted(shares) and 0.5 in shares and shares[-1] == 1
    for i, maps in enumerate(inputs):
        alone = refiner(*maps, grid=(2, 3))
        for name in alone._fields:
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name))
    with pytest.raises(UserError, match="2 images, 1 coarse depth maps .* give as many of each"):
        refiner(stacked[0], stacked[1][:1], stacked[2])


@pytest.mark.parametrize("fidelity", ["exact", "official"])
def test_run_yields_the_rows_of_a_call(micro, params, fidelity, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 7)
    refiner = Refiner(params, with_eval(micro, fidelity=fidelity))
    image, depth, normal = image_with_coarse_maps(SIZE)
    np.save(tmp_path / "depth.npy", depth)
    mapped = np.load(tmp_path / "depth.npy", mmap_mode="r")
    strips = list(refiner.run(refiner.plan(image, (2, 3)), mapped, normal))
    assert len(strips) > 1 or fidelity == "official"  # which resizes whole maps
    whole = refiner(image, depth, normal, (2, 3))
    for i, values in enumerate(whole):
        parts = [result[i] for _, result in strips]
        np.testing.assert_array_equal(values, np.concatenate(parts))


def test_run_resizes_an_image_once(micro, params, monkeypatch):
    refiner = Refiner(params, with_eval(micro, fidelity="official"))
    image, depth, normal = image_with_coarse_maps(SIZE)
    calls = []
    working_image = refiner.mode.working_image

    def counted(*args):
        calls.append(args)
        return working_image(*args)

    monkeypatch.setattr(refiner.mode, "working_image", counted)
    refiner(image, depth, normal, (2, 3))
    assert len(calls) == 1


def test_refiner_gives_the_same_result_in_chunks_of_patches(micro, params, monkeypatch):
    refiner = Refiner(params, micro)
    maps = image_with_coarse_maps(SIZE)
    whole = refiner(*maps, grid=(4, 4))
    monkeypatch.setattr(refiner_module, "HEAD_PIXELS", 8 * 5 * 28 * 42)  # 5 of 16 patches
    parts = refiner(*maps, grid=(4, 4))
    np.testing.assert_allclose(parts.depth, whole.depth, atol=1e-5)
    np.testing.assert_allclose(parts.normal_confidence, whole.normal_confidence, atol=1e-4)


def test_refiner_gives_the_same_result_with_few_resident_patches(micro, params):
    maps = image_with_coarse_maps(SIZE)
    whole = Refiner(params, micro)(*maps, grid=(2, 3))
    offloaded = Refiner(params, micro, resident=2)(*maps, grid=(2, 3))
    np.testing.assert_allclose(offloaded.normal, whole.normal, atol=1e-5)
    np.testing.assert_allclose(offloaded.depth_confidence, whole.depth_confidence, atol=1e-4)


def test_refiner_returns_depth_in_the_unit_of_the_coarse_depth(micro, params):
    refiner = Refiner(params, micro)
    image, depth, normal = image_with_coarse_maps(SIZE)
    first = refiner(image, depth, normal)
    scaled = refiner(image, 500 * depth + 20, normal)
    np.testing.assert_allclose(scaled.depth, 500 * first.depth + 20, atol=0.05)


@pytest.mark.parametrize("output", ["depth", "normal"])
def test_refiner_passes_on_a_map_that_the_model_does_not_refine(micro, params, output):
    model = replace(micro.model, outputs=(output,))
    refiner = Refiner(random_params(model), replace(micro, model=model))
    image, depth, normal = image_with_coarse_maps(SIZE)
    result = refiner(image, depth, normal, (2, 3))
    if output == "depth":
        unit = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
        np.testing.assert_allclose(result.normal, unit, atol=1e-6)
        assert result.normal_confidence is None and result.depth_confidence.min() >= 1
        assert np.abs(result.depth - depth).max() > 1e-3
    else:
        np.testing.assert_allclose(result.depth, depth, atol=1e-6)
        assert result.depth_confidence is None and result.normal_confidence.min() >= 1


def test_refiner_reports_progress_that_ends_with_the_last_patch(micro, params, monkeypatch):
    monkeypatch.setattr(refiner_module, "chunk_of", lambda *_: 1)
    percents = []
    refiner = Refiner(params, micro)
    maps = image_with_coarse_maps(SIZE)
    refiner(*maps, grid=(15, 15), progress=lambda done, count: percents.append(done))
    assert percents == sorted(percents)
    assert percents.index(100) == len(percents) - 1


def test_refiner_rejects_no_resident_patches(micro, params):
    with pytest.raises(UserError, match="resident 0 must be at least 1"):
        Refiner(params, micro, resident=0)


def test_refiner_rejects_a_pool_larger_than_a_patch(micro, params):
    rows, cols = micro.model.tokens
    assert (rows, cols) == (2, 3)
    Refiner(params, with_eval(micro, pool=3))
    with pytest.raises(UserError, match="pool 4 is larger than a patch, which has 2 x 3 tokens"):
        Refiner(params, with_eval(micro, pool=4))


def test_load_takes_settings_that_replace_the_stored_ones(weights):
    refiner = load(weights, dtype="bfloat16", fidelity="official", pool=2, resident=3)
    assert refiner.config.model.dtype == "bfloat16"
    assert isinstance(refiner.mode, OfficialMode)
    assert refiner.config.eval.pool == 2
    assert refiner.resident == 3


def test_load_takes_the_stored_settings_by_default(weights, micro, params):
    refiner = load(weights / "weights.safetensors")
    assert refiner.config == micro
    assert isinstance(refiner.mode, ExactMode)
    for ours, stored in zip(jax.tree.leaves(refiner.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, stored)


def test_load_finds_shipped_weights_by_name():
    assert isinstance(urgt_jax.load("scenes"), urgt_jax.Refiner)


def test_load_rejects_prior_networks_and_names_their_option(tmp_path):
    options = tiny_prior_networks.save_both(tmp_path)
    for option, path in options.items():
        with pytest.raises(UserError, match=f"which is not a refiner: .* with {option}"):
            load(path)
