"""Weight files carry their configuration, and are found by path, work directory or name."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import seeded_weights as seeded
from helpers.torch_archive import write_state_dict
from safetensors.numpy import save_file

import urgt_jax
from urgt_jax.config import Config
from urgt_jax.data.priors.degrade import STRENGTHS, degrade
from urgt_jax.data.priors.units import depth_target, fit_disparity
from urgt_jax.data.scenes import render, sample_scene
from urgt_jax.errors import UserError
from urgt_jax.training.step import initial_params
from urgt_jax.weights.convert import convert
from urgt_jax.weights.weight_file import (
    initialize_from,
    list_misfits,
    load_weights,
    locate_weights,
    save_weights,
    shipped_weights,
)

FIXTURE = np.load(seeded.GOLDEN / "urgt_pipeline.npz")


def test_save_weights_and_load_weights_keep_every_bit(tmp_path, micro):
    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "weights.safetensors", params, micro)
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        loaded, config = load_weights(path)
        assert config == micro
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_load_weights_rejects_official_files_and_other_models(tmp_path):
    arrays = seeded.state(FIXTURE, "sd_dav2/")
    save_file(arrays, tmp_path / "official.safetensors")
    with pytest.raises(UserError, match="urgt convert .*official.safetensors NEW.safetensors"):
        load_weights(tmp_path / "official.safetensors")
    fields = seeded.settings(FIXTURE)["dav2"]
    convert(tmp_path / "official.safetensors", tmp_path / "dav2.safetensors", fields)
    with pytest.raises(UserError, match="holds weights of Depth Anything V2, but URGT is needed"):
        load_weights(tmp_path / "dav2.safetensors")


@pytest.mark.parametrize("registers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_initialize_from_dinov2_replaces_the_encoder_alone(tmp_path, micro, registers):
    prefix = "aggregator.patch_embed."
    arrays = {}
    for name, x in seeded.state(FIXTURE, "sd_urgt/").items():
        if name.startswith(prefix) and "patch_embed_" not in name:
            arrays[name.removeprefix(prefix)] = x
    if not registers:
        del arrays["register_tokens"]
    source = write_state_dict(tmp_path / "dinov2.pth", arrays)
    convert(source, tmp_path / "dinov2.safetensors", {"num_heads": 4})
    params, vit = load_weights(tmp_path / "dinov2.safetensors", "encoder")
    assert vit.position_resampling == ("antialias" if registers else "offset")
    model = dataclasses.replace(micro.model, encoder=vit, num_heads=4)
    config = Config(model=model, init=str(tmp_path / "dinov2.safetensors"))
    drawn = initial_params(model, 0)
    started = initialize_from(drawn, config)
    assert_array_equal = np.testing.assert_array_equal
    jax.tree.map(assert_array_equal, started["encoder"]["blocks"], params["blocks"])
    jax.tree.map(assert_array_equal, started["within_patch"], drawn["within_patch"])
    assert np.std(started["encoder"]["depth"]["proj"]["kernel"]) < 2e-4
    wrong = Config(model=micro.model, init=config.init)
    with pytest.raises(UserError, match="init: .*dinov2.safetensors does not fit the model"):
        initialize_from(initial_params(micro.model, 0), wrong)


def test_locate_weights_finds_shipped_weights_and_suggests_them():
    assert locate_weights("scenes") == shipped_weights()["scenes"]
    with pytest.raises(UserError, match="no weights at scene; did you mean scenes"):
        locate_weights("scene")
    with pytest.raises(UserError, match="no weights at missing.*scenes"):
        locate_weights("missing")


def test_list_misfits_names_every_problem_once():
    expected = {"a": (1,), "b": (2, 3), "c": (4,)}
    assert list_misfits(expected, expected) == ""
    misfits = list_misfits(expected, {"b": (3, 2), "c": (4,), "d": ()})
    assert misfits == "1 missing (a); 1 unexpected (d); 1 mis-shaped (b (3, 2) instead of (2, 3))"


def test_shipped_refiner_is_small_and_improves_scenes_unlike_those_it_was_trained_on():
    assert shipped_weights()["scenes"].stat().length < 25e6
    refiner = urgt_jax.load("scenes")
    depth_ratios = []
    normal_ratios = []
    for seed in range(4):
        view = render(sample_scene(seed, "other"), 270, 480)
        rng = np.random.default_rng(seed)
        truth = (view.depth, view.normal, view.valid)
        depth, normal = degrade(*truth, STRENGTHS["middle"], rng, 80.0, view.intrinsics)
        scale_and_shift = fit_disparity(view.depth, view.valid, depth)
        target = depth_target(view.depth, view.valid, scale_and_shift, "disparity", 80.0)
        result = refiner(view.image, depth, normal)
        coarse_error = np.abs(depth - target)[view.valid].mean()
        refined_error = np.abs(result.depth - target)[view.valid].mean()
        depth_ratios.append(refined_error / coarse_error)
        coarse_error = np.linalg.norm(normal - view.normal, axis=-1)[view.valid].mean()
        refined_error = np.linalg.norm(result.normal - view.normal, axis=-1)[view.valid].mean()
        normal_ratios.append(refined_error / coarse_error)
    assert np.mean(depth_ratios) < 0.97, depth_ratios
    assert np.mean(normal_ratios) < 0.9, normal_ratios
