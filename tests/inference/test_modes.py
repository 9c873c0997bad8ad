"""The two ways to run a refiner: the released code's, against its arrays, and the paper's."""

import dataclasses
import functools

import numpy as np
import pytest
from helpers import seeded_weights as seeded
from PIL import Image
from safetensors.numpy import save_file

from urgt_jax.commands.refine import main
from urgt_jax.config import Config, Eval
from urgt_jax.errors import UserError
from urgt_jax.images import grid, resize
from urgt_jax.inference import modes
from urgt_jax.inference import refiner as inference
from urgt_jax.models.refiner import CHANNELS, Offsets
from urgt_jax.training.step import initial_params
from urgt_jax.weights.convert import convert

MODEL = np.load(seeded.GOLDEN / "urgt_model.npz")
PIPELINE = np.load(seeded.GOLDEN / "urgt_pipeline.npz")
PARTS = {"urgt": "sd_urgt/", "dav2": "sd_dav2/", "metric3d": "sd_m3d/"}
close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0)


def last(x: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(x, -3, -1)


def converted(folder, fixture, part: str, name: str, given: dict):
    """A weight file of ours, made by `convert` as a user would make it."""
    arrays = seeded.state(fixture, part)
    save_file(arrays, folder / f"{name}_official.safetensors")
    target = folder / f"{name}.safetensors"
    convert(folder / f"{name}_official.safetensors", target, given)
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The weights of the released class's fixture."""
    told = seeded.settings(MODEL)
    names = ("num_heads", "dino_heads", "intermediate_layer_idx")
    given = {name: told[name] for name in names}
    return converted(tmp_path_factory.mktemp("model"), MODEL, "", "urgt", given)


def of_case(model, case: str):
    """The refiner, maps and windows of a case."""
    told = seeded.settings(MODEL)["cases"][case]
    params, config = inference.load_weights(model)
    shape = dataclasses.replace(config.model, patch_size=tuple(told["patch_process_shape"]))
    refiner = inference.Refiner(params, dataclasses.replace(config, model=shape))
    get = lambda key: MODEL[f"{case}/in/{key}"][0]  # noqa: E731
    maps = modes.RefinerInputs(last(get("image")), get("coarse_depth"), last(get("coarse_normal")))
    windows = grid.cover_image(*maps.size, *told["patch_split"], 0.3 if told["overlap"] else 0.0)
    return refiner, maps, windows


@pytest.mark.parametrize("case", ["overlap_2x2", "nonoverlap_2x2", "overlap_2x2_coarse"])
def test_official_is_the_released_class(model, case):
    refiner, maps, windows = of_case(model, case)
    image, depth, normal = refiner.way.cut(maps, windows, 0)
    close(image, last(MODEL[f"{case}/mid/patches"])[0, 0])
    close(depth, MODEL[f"{case}/mid/depth_roi"][0, 0, 0])
    close(normal, last(MODEL[f"{case}/mid/normal_roi"])[0])
    result = refiner.refine(maps, windows)
    close(result.depth, MODEL[f"{case}/out/depth_pred"][0, 0])
    want = last(MODEL[f"{case}/out/normal_pred"])[0]
    close(result.normal, want / np.linalg.norm(want, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder with the photograph and all three weight files of the released script's fixture."""
    folder = tmp_path_factory.mktemp("pipeline")
    told = seeded.settings(PIPELINE)
    shape = {"patch_process_shape": told["patch_process_shape"]}
    for name, part in PARTS.items():
        converted(folder, PIPELINE, part, name, told[name] | (shape if name == "urgt" else {}))
    Image.fromarray(PIPELINE["a/in/image_bgr"][..., ::-1].copy()).save(folder / "photo.png")
    np.save(folder / "depth.npy", PIPELINE["a/mid/coarse_depth"])
    np.save(folder / "normal.npy", PIPELINE["a/mid/coarse_normal"])
    return folder


def run(monkeypatch, folder, *options):
    """What predict writes."""
    names = [str(folder / x) if isinstance(x, str) and "." in x else x for x in options]
    monkeypatch.setattr("sys.argv", ["predict", *map(str, names), "--out", str(folder / "out")])
    main()
    return {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}


def wanted():
    """What the released script writes, at the picture's own size, normals not reversed."""
    depth = PIPELINE["a/out_fp32/depth_npy"]
    normal = np.ascontiguousarray(PIPELINE["a/out_fp32/normal_npy"][..., ::-1])
    size = PIPELINE["a/in/image_bgr"].shape[:2]
    assert depth.shape != size, "the fixture is of a picture that the split does not divide"
    normal = resize.resize_linear(normal, *size)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return resize.resize_linear(depth, *size), normal


def test_the_command_line_gives_what_the_released_script_gives(pipeline, monkeypatch):
    found = run(
        monkeypatch, pipeline, "photo.png", "--weights", "urgt.safetensors", "--grid", 2, 2,
        "--coarse-depth", "depth.npy", "--coarse-normal", "normal.npy",
    )  # fmt: skip
    close(found["photo_depth"], wanted()[0])
    close(found["photo_normal"], wanted()[1])


def test_a_bare_photograph_gives_what_the_released_script_gives(pipeline, monkeypatch):
    found = run(
        monkeypatch, pipeline, "photo.png", "--weights", "urgt.safetensors", "--grid", 2, 2,
        "--depth-weights", "dav2.safetensors", "--normal-weights", "metric3d.safetensors",
        "--depth-size", 126, "--save-coarse",
    )  # fmt: skip
    close(found["photo_coarse_depth"], PIPELINE["a/mid/coarse_depth"])
    close(found["photo_coarse_normal"], PIPELINE["a/mid/coarse_normal"])
    close(found["photo_depth"], wanted()[0])
    close(found["photo_normal"], wanted()[1])


def test_a_folder_of_pictures_compiles_once(pipeline, monkeypatch, tmp_path):
    """Pictures of one aspect share programs, and what one gives does not hang on the others."""
    from urgt_jax.data.priors import networks

    photo = Image.open(pipeline / "photo.png")
    (tmp_path / "in").mkdir()
    for number, size in enumerate([(170, 121), (170, 121), (121, 170)]):
        photo.resize(size).save(tmp_path / "in" / f"{number}.png")
    before = networks.run_network._cache_size()
    weights = [x for name in ("weights:urgt", "depth-weights:dav2", "normal-weights:metric3d")
               for x in (f"--{name.split(':')[0]}",
                         str(pipeline / f"{name.split(':')[1]}.safetensors"))]  # fmt: skip
    options = [*weights, "--grid", "2", "2", "--depth-size", "126"]

    def refine(*paths):
        arguments = ["predict", *map(str, paths), *options, "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", arguments)
        main()
        return np.load(tmp_path / "out" / "1_depth.npy")

    together = refine(tmp_path / "in")
    assert networks.run_network._cache_size() - before <= 3  # two aspects of depth, one of normals
    np.testing.assert_array_equal(together, refine(tmp_path / "in" / "1.png"))


@pytest.mark.parametrize("split", [(1, 1), (2, 3), (1, 4)])
def test_what_is_broken_there_works_here(pipeline, monkeypatch, split):
    found = run(
        monkeypatch, pipeline, "photo.png", "--weights", "urgt.safetensors", "--grid", *split,
        "--coarse-depth", "depth.npy", "--coarse-normal", "normal.npy",
    )  # fmt: skip
    assert found["photo_depth"].shape == (121, 170)
    assert np.ptp(found["photo_depth"], 0).min() > 0.1, "one row fills the picture"
    close(np.linalg.norm(found["photo_normal"], axis=-1), 1)


def test_positions_under_overlap():
    model = dataclasses.replace(Config().model, patch_size=(28, 42))
    exact, official = (way(Config(model=model)) for way in (modes.ExactMode, modes.OfficialMode))
    windows = grid.cover_image(60, 80, 2, 2, 0.5)
    assert windows.count == 9
    start = official.spots(windows)[:, 0]
    np.testing.assert_array_equal(start[:4], [[1, 1], [1, 4], [1, 7], [3, 1]])
    start = exact.spots(windows)[:, 0]  # each window begins half a patch after the one before
    np.testing.assert_array_equal(start[:4], [[1, 1], [1, 2.5], [1, 4], [2, 1]])


def test_without_overlap_both_have_the_same_positions():
    windows = grid.cover_image(60, 80, 2, 4, 0.0)
    ways = [way(Config()).spots(windows) for way in (modes.ExactMode, modes.OfficialMode)]
    np.testing.assert_allclose(*ways)


def test_official_takes_relative_disparity_only():
    config = Config(prior=dataclasses.replace(Config().prior, kind="depth"))
    with pytest.raises(UserError, match="use --fidelity exact"):
        modes.OfficialMode(config)


def test_zero_offsets_return_the_coarse_maps_in_exact_mode(micro, monkeypatch):
    refiner = inference.Refiner(initial_params(micro.model, 0), micro)
    zero = lambda x: 0 * x  # noqa: E731
    offsets = refiner.offsets

    def silent(*arguments):
        for found in offsets(*arguments):
            yield {k: v._replace(value=zero(v.value)) for k, v in found.items()}

    monkeypatch.setattr(refiner, "offsets", silent)
    rng = np.random.default_rng(0)
    depth, normal = rng.random((41, 67), np.float32), rng.random((41, 67, 3), np.float32) + 0.1
    image = rng.integers(0, 255, (41, 67, 3), np.uint8)
    result = refiner(image, depth, normal, (3, 2), 0.4)
    np.testing.assert_allclose(result.depth, depth, atol=1e-6)
    unit = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    np.testing.assert_allclose(result.normal, unit, atol=1e-6)


def test_overlapping_windows_are_averaged_by_the_distance_from_their_border(micro, monkeypatch):
    refiner = inference.Refiner(initial_params(micro.model, 0), micro)
    values, sure = (0.1, 0.5, 0.3), (8.0, 2.0, 4.0)

    def constant(*_):
        for value, confidence in zip(values, sure, strict=True):
            certain = np.full((28, 42), confidence, np.float32)
            yield {
                kind: Offsets(np.full((28, 42, channels), value, np.float32), certain)
                for kind, channels in CHANNELS.items()
            }

    monkeypatch.setattr(refiner, "offsets", constant)
    depth, image = np.linspace(0, 1, 2400, dtype=np.float32), np.zeros((40, 60, 3), np.uint8)
    depth, normal = depth.reshape(40, 60), np.full((40, 60, 3), 0.5, np.float32)
    found = refiner(image, depth, normal, (1, 2), 0.5)
    windows, weight = grid.cover_image(40, 60, 1, 2, 0.5), grid.centre_weight(40, 30)

    def mean(numbers):
        patches = [{"map": np.full((40, 30, 1), x)} for x in numbers]
        strips = grid.merge_windows(patches, windows, weight)
        return np.concatenate([strip["map"] for _, strip in strips])[..., 0]

    np.testing.assert_allclose(found.depth_confidence, mean(sure), rtol=1e-5)
    np.testing.assert_allclose(found.depth, depth + mean(values), rtol=1e-5)


def test_the_mode_travels_with_the_weights(model, micro):
    assert isinstance(inference.load(model).way, modes.OfficialMode)
    assert isinstance(inference.load(model, fidelity="exact").way, modes.ExactMode)
    assert micro.eval.fidelity == Eval().fidelity == "exact"
