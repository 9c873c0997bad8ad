"""Official mode against arrays of the released code, and exact mode against the paper."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from etils.epath import Path
from helpers import seeded_weights
from helpers.command import call
from helpers.parity import channels_last
from helpers.random_refiner import image_with_coarse_maps
from PIL import Image
from safetensors.numpy import save_file

from urgt_jax.commands import refine as refine_command
from urgt_jax.config import Config, Eval
from urgt_jax.data.priors import networks
from urgt_jax.errors import UserError
from urgt_jax.images import grid as grids
from urgt_jax.images import resize
from urgt_jax.images.geometry import unit_normals
from urgt_jax.inference.modes import ExactMode, OfficialMode, RefinerInputs
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.models.refiner import CHANNELS, Offsets
from urgt_jax.training.step import initial_params
from urgt_jax.weights.convert import convert
from urgt_jax.weights.weight_file import load_weights

MODEL = np.load(seeded_weights.GOLDEN / "urgt_model.npz")
PIPELINE = np.load(seeded_weights.GOLDEN / "urgt_pipeline.npz")
PARTS = {"urgt": "sd_urgt/", "dav2": "sd_dav2/", "metric3d": "sd_m3d/"}
close = partial(np.testing.assert_allclose, atol=1e-4, rtol=0)


def convert_fixture(folder, fixture, part: str, name: str, config: dict):
    """A weight file of ours, made by `convert` as a user would make it."""
    official = folder / f"{name}_official.safetensors"
    save_file(seeded_weights.state(fixture, part), official)
    target = folder / f"{name}.safetensors"
    convert(official, target, config)
    return target


@pytest.fixture(scope="module")
def official_weights(tmp_path_factory):
    """The weights of the released class's fixture."""
    settings = seeded_weights.settings(MODEL)
    names = ("num_heads", "dino_heads", "intermediate_layer_idx")
    config = {name: settings[name] for name in names}
    return convert_fixture(Path(tmp_path_factory.mktemp("model")), MODEL, "", "urgt", config)


def official_case(weights, case: str):
    """The refiner, inputs and windows of a case."""
    settings = seeded_weights.settings(MODEL)["cases"][case]
    params, config = load_weights(weights)
    model = replace(config.model, patch_size=tuple(settings["patch_process_shape"]))
    refiner = Refiner(params, replace(config, model=model))
    image = channels_last(MODEL[f"{case}/in/image"][0])
    depth = MODEL[f"{case}/in/coarse_depth"][0]
    normal = channels_last(MODEL[f"{case}/in/coarse_normal"][0])
    inputs = RefinerInputs(image, depth, normal)
    overlap = 0.3 if settings["overlap"] else 0.0
    windows = grids.cover_image(*inputs.size, *settings["patch_split"], overlap)
    return refiner, inputs, windows


@pytest.mark.parametrize("case", ["overlap_2x2", "nonoverlap_2x2", "overlap_2x2_coarse"])
def test_official_mode_gives_the_arrays_of_the_released_class(official_weights, case):
    refiner, inputs, windows = official_case(official_weights, case)
    image, depth, normal = refiner.mode.window_inputs(inputs, windows, 0)
    close(image, channels_last(MODEL[f"{case}/mid/patches"])[0, 0])
    close(depth, MODEL[f"{case}/mid/depth_roi"][0, 0, 0])
    close(normal, channels_last(MODEL[f"{case}/mid/normal_roi"])[0])
    result = refiner.refine(inputs, windows)
    close(result.depth, MODEL[f"{case}/out/depth_pred"][0, 0])
    expected = channels_last(MODEL[f"{case}/out/normal_pred"])[0]
    close(result.normal, expected / np.linalg.norm(expected, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with the photograph and all three weight files of the released script's fixture."""
    folder = Path(tmp_path_factory.mktemp("pipeline"))
    settings = seeded_weights.settings(PIPELINE)
    configs = {name: dict(settings[name]) for name in PARTS}
    configs["urgt"]["patch_process_shape"] = settings["patch_process_shape"]
    for name, part in PARTS.items():
        convert_fixture(folder, PIPELINE, part, name, configs[name])
    Image.fromarray(PIPELINE["a/in/image_bgr"][..., ::-1].copy()).save(folder / "photo.png")
    np.save(folder / "depth.npy", PIPELINE["a/mid/coarse_depth"])
    np.save(folder / "normal.npy", PIPELINE["a/mid/coarse_normal"])
    return folder


def refine_photo(pipeline, out, *options) -> dict[str, np.ndarray]:
    """The maps that `urgt refine` writes for the photograph."""
    photo = pipeline / "photo.png"
    weights = pipeline / "urgt.safetensors"
    call(refine_command.main, photo, "--weights", weights, "--out", out, *options)
    return {path.stem: np.load(path) for path in out.glob("*.npy")}


def coarse_files(pipeline) -> list:
    """The options that pass the coarse maps of the released script."""
    depth = pipeline / "depth.npy"
    normal = pipeline / "normal.npy"
    return ["--coarse-depth", depth, "--coarse-normal", normal]


def prior_networks(pipeline) -> list:
    """The options that let the released script's networks predict coarse maps."""
    depth = pipeline / "dav2.safetensors"
    normal = pipeline / "metric3d.safetensors"
    return ["--depth-weights", depth, "--normal-weights", normal, "--depth-size", 126]


def released_output() -> tuple[np.ndarray, np.ndarray]:
    """What the released script writes, at the image's own size, with normals not reversed."""
    depth = PIPELINE["a/out_fp32/depth_npy"]
    normal = np.ascontiguousarray(PIPELINE["a/out_fp32/normal_npy"][..., ::-1])
    size = PIPELINE["a/in/image_bgr"].shape[:2]
    assert depth.shape != size, "the image of the fixture is no multiple of the grid"
    normal = resize.resize_linear(normal, *size)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return resize.resize_linear(depth, *size), normal


def test_refine_writes_what_the_released_script_writes(pipeline, tmp_path):
    maps = refine_photo(pipeline, tmp_path, "--grid", 2, 2, *coarse_files(pipeline))
    depth, normal = released_output()
    close(maps["photo_depth"], depth)
    close(maps["photo_normal"], normal)


# The error in proportion to that of the released script, whose autocast to bfloat16 leaves the
# tokens between blocks and the DPT heads in float32. docs/gpu.md has what the others save.
@pytest.mark.parametrize(
    "dtype,depth_limit,normal_limit",
    [
        ("bfloat16", 1.1, 1.1),
        ("bfloat16-residual", 1.7, 1.7),
        ("bfloat16-heads", 8.0, 3.6),
        ("bfloat16-all", 8.0, 3.6),
    ],
)
def test_bfloat16_is_as_accurate_as_the_released_script(pipeline, dtype, depth_limit, normal_limit):
    refiner = load(pipeline / "urgt.safetensors", dtype)
    job = refiner.plan(PIPELINE["a/in/image_bgr"][..., ::-1].copy(), (2, 2))
    inputs = refiner.mode.prepare(
        job.image, PIPELINE["a/mid/coarse_depth"], PIPELINE["a/mid/coarse_normal"]
    )
    result = refiner.refine(inputs, job.windows)
    for name, output, limit in (
        ("depth_npy", inputs.unit.restore(result.depth), depth_limit),
        ("normal_npy", result.normal[..., ::-1], normal_limit),
    ):
        exact = PIPELINE[f"a/out_fp32/{name}"]
        released = np.abs(PIPELINE[f"a/out_bf16/{name}"] - exact).mean()
        assert np.abs(output - exact).mean() < limit * released


def test_refine_with_prior_networks_writes_what_the_released_script_writes(pipeline, tmp_path):
    options = ["--grid", 2, 2, "--save-coarse", *prior_networks(pipeline)]
    maps = refine_photo(pipeline, tmp_path, *options)
    close(maps["photo_coarse_depth"], PIPELINE["a/mid/coarse_depth"])
    close(maps["photo_coarse_normal"], PIPELINE["a/mid/coarse_normal"])
    depth, normal = released_output()
    close(maps["photo_depth"], depth)
    close(maps["photo_normal"], normal)


def test_refine_compiles_once_for_images_of_one_aspect(pipeline, tmp_path):
    """The result of an image does not depend on the others in the folder."""
    photo = Image.open(pipeline / "photo.png")
    (tmp_path / "in").mkdir()
    for number, size in enumerate([(340, 242), (170, 121), (121, 170)]):
        photo.resize(size).save(tmp_path / "in" / f"{number}.png")
    networks.run_network.clear_cache()

    def refine(path):
        weights = pipeline / "urgt.safetensors"
        options = ["--weights", weights, "--grid", 2, 2, *prior_networks(pipeline)]
        call(refine_command.main, path, "--out", tmp_path / "out", *options)
        return np.load(tmp_path / "out" / "1_depth.npy")

    together = refine(tmp_path / "in")
    # Two aspects for depth, one size for normals.
    assert networks.run_network._cache_size() <= 3
    np.testing.assert_array_equal(together, refine(tmp_path / "in" / "1.png"))


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (1, 4)])
def test_official_mode_works_for_grids_on_which_the_released_code_fails(pipeline, tmp_path, grid):
    maps = refine_photo(pipeline, tmp_path, "--grid", *grid, *coarse_files(pipeline))
    assert maps["photo_depth"].shape == (121, 170)
    assert np.ptp(maps["photo_depth"], 0).min() > 0.1, "one row fills the image"
    close(np.linalg.norm(maps["photo_normal"], axis=-1), 1)


def test_positions_are_fractions_in_exact_mode_and_whole_in_official_mode():
    config = Config(model=replace(Config().model, patch_size=(28, 42)))
    windows = grids.cover_image(60, 80, 2, 2, 0.5)
    assert windows.count == 9
    first_token = OfficialMode(config).positions(windows)[:, 0]
    np.testing.assert_array_equal(first_token[:4], [[1, 1], [1, 4], [1, 7], [3, 1]])
    # In exact mode each window begins half a patch after the one before.
    first_token = ExactMode(config).positions(windows)[:, 0]
    np.testing.assert_array_equal(first_token[:4], [[1, 1], [1, 2.5], [1, 4], [2, 1]])


def test_positions_are_the_same_in_both_modes_without_overlap():
    windows = grids.cover_image(60, 80, 2, 4, 0.0)
    exact = ExactMode(Config()).positions(windows)
    official = OfficialMode(Config()).positions(windows)
    np.testing.assert_allclose(exact, official)


def test_official_mode_rejects_metric_depth():
    config = Config(prior=replace(Config().prior, kind="depth"))
    with pytest.raises(UserError, match="use --fidelity exact"):
        OfficialMode(config)


def test_window_inputs_of_lazy_maps_equal_those_of_whole_maps(micro):
    mode = ExactMode(micro)
    image, depth, normal = image_with_coarse_maps((41, 67))
    depth = 7 * depth + 3
    inputs = mode.prepare(image, depth, normal)
    assert inputs.depth[:, :].min() == 0 and inputs.depth[:, :].max() == 1
    disparity = (depth - inputs.unit.low) / np.float32(inputs.unit.scale)
    whole = RefinerInputs(image, disparity, unit_normals(normal))
    windows = grids.cover_image(41, 67, 2, 3, 0.3)
    for k in range(windows.count):
        lazy_cut = mode.window_inputs(inputs, windows, k)
        whole_cut = mode.window_inputs(whole, windows, k)
        for lazy_map, whole_map in zip(lazy_cut, whole_cut, strict=True):
            np.testing.assert_array_equal(lazy_map, whole_map)


def test_exact_mode_returns_the_coarse_maps_for_zero_offsets(micro, monkeypatch):
    refiner = Refiner(initial_params(micro.model, 0), micro)
    offsets = refiner.offsets

    def zero_offsets(*args):
        for heads in offsets(*args):
            yield {name: head._replace(value=0 * head.value) for name, head in heads.items()}

    monkeypatch.setattr(refiner, "offsets", zero_offsets)
    rng = np.random.default_rng(0)
    depth = rng.random((41, 67), np.float32)
    normal = rng.random((41, 67, 3), np.float32) + 0.1
    image = rng.integers(0, 255, (41, 67, 3), np.uint8)
    result = refiner(image, depth, normal, (3, 2), 0.4)
    np.testing.assert_allclose(result.depth, depth, atol=1e-6)
    unit = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    np.testing.assert_allclose(result.normal, unit, atol=1e-6)


def test_exact_mode_blends_windows_by_the_distance_from_their_border(micro, monkeypatch):
    refiner = Refiner(initial_params(micro.model, 0), micro)
    values = (0.1, 0.5, 0.3)
    confidences = (8.0, 2.0, 4.0)

    def constant_offsets(*_):
        for value, confidence in zip(values, confidences, strict=True):
            yield {
                name: Offsets(
                    np.full((28, 42, channels), value, np.float32),
                    np.full((28, 42), confidence, np.float32),
                )
                for name, channels in CHANNELS.items()
            }

    monkeypatch.setattr(refiner, "offsets", constant_offsets)
    depth = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    normal = np.full((40, 60, 3), 0.5, np.float32)
    image = np.zeros((40, 60, 3), np.uint8)
    result = refiner(image, depth, normal, (1, 2), 0.5)
    windows = grids.cover_image(40, 60, 1, 2, 0.5)
    weight = grids.centre_weight(40, 30)

    def blend(numbers):
        total = np.zeros((40, 60))
        weights = np.zeros((40, 60))
        for k, number in enumerate(numbers):
            total[windows.window(k)] += number * weight
            weights[windows.window(k)] += weight
        return total / weights

    np.testing.assert_allclose(result.depth_confidence, blend(confidences), rtol=1e-5)
    np.testing.assert_allclose(result.depth, depth + blend(values), rtol=1e-5)


def test_mode_is_stored_with_the_weights(official_weights, micro):
    assert isinstance(load(official_weights).mode, OfficialMode)
    assert isinstance(load(official_weights, fidelity="exact").mode, ExactMode)
    assert micro.eval.fidelity == Eval().fidelity == "exact"
