"""Commands as a user runs them: what they write, and what they refuse in one line."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command import call
from PIL import Image

import urgt_jax
from urgt_jax.commands import refine as refine_command
from urgt_jax.config import Prior
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.errors import UserError, exit_status
from urgt_jax.images.files import read_image
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import save_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(micro, tmp_path_factory):
    """A work directory with weights that change their priors a little."""
    workdir = tmp_path_factory.mktemp("weights")
    params = jax.device_get(initial_params(micro.model, 0))
    for head in ("depth_head", "normal_head"):
        last = params[head]["pyramid"]["last"]
        last["kernel"] = last["kernel"] * 300
    save_weights(workdir / "weights.safetensors", params, micro)
    return workdir


@pytest.fixture
def scene(tmp_path):
    """A picture of 41 x 67 pixels with coarse maps beside it."""
    write_scene(tmp_path, "photo", 3, "test", (41, 67), Prior())
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    "options", [[], ["--grid", 3, 5], ["--grid", 0, 0], ["--overlap", 0.3, "--resident", 4]]
)
def test_predict_writes_maps_of_the_pictures_size(weights, scene, tmp_path, options):
    out = tmp_path / "new" / "out"
    call(refine_command.main, scene, "--weights", weights, "--out", out, *options)
    depth, normal = np.load(out / "photo_depth.npy"), np.load(out / "photo_normal.npy")
    assert depth.shape == (41, 67) and depth.dtype == np.float32
    assert normal.shape == (41, 67, 3) and normal.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    coarse = np.load(scene.with_name("photo_coarse_depth.npy"))
    assert 1e-4 < np.abs(depth - coarse).mean() < 0.3
    for kind in ("depth", "normal"):
        assert Image.open(out / f"photo_{kind}.png").size == (67, 41)
    assert len(list(out.iterdir())) == 4


def test_python_gives_what_the_command_gives(weights, scene, tmp_path):
    call(refine_command.main, scene.parent, "--weights", weights, "--out", tmp_path / "out")
    refiner = urgt_jax.load(weights / "weights.safetensors")
    maps = [np.load(scene.with_name(f"photo_coarse_{kind}.npy")) for kind in ("depth", "normal")]
    result = refiner(read_image(scene), *maps)
    np.testing.assert_array_equal(result.depth, np.load(tmp_path / "out/photo_depth.npy"))
    assert result.depth_confidence.shape == (41, 67) and result.normal_confidence.min() > 1


def test_depth_keeps_the_unit_it_came_in(weights, scene):
    refiner = urgt_jax.load(weights)
    image = read_image(scene)
    depth, normal = (np.load(scene.with_name(f"photo_coarse_{k}.npy")) for k in ("depth", "normal"))
    first, scaled = refiner(image, depth, normal), refiner(image, 500 * depth + 20, normal)
    np.testing.assert_allclose(scaled.depth, 500 * first.depth + 20, atol=0.05)


def test_chunks_of_patches_change_nothing(weights, scene, monkeypatch):
    from urgt_jax.inference import refiner as inference

    refiner, image = urgt_jax.load(weights), read_image(scene)
    maps = [np.load(scene.with_name(f"photo_coarse_{kind}.npy")) for kind in ("depth", "normal")]
    whole = refiner(image, *maps, grid=(4, 4))
    monkeypatch.setattr(inference, "HEAD_PIXELS", 8 * 5 * 28 * 42)
    parts = refiner(image, *maps, grid=(4, 4))
    np.testing.assert_allclose(parts.depth, whole.depth, atol=1e-5)
    np.testing.assert_allclose(parts.normal_confidence, whole.normal_confidence, atol=1e-4)


def _broken(kind: str, scene: Path) -> list:
    """Spoils one input and gives the options that go with it."""
    beside = scene.with_name
    depth, normal = beside("photo_coarse_depth.npy"), beside("photo_coarse_normal.npy")
    values, turned = np.load(depth), np.load(normal)
    if kind == "empty picture":
        scene.write_bytes(b"")
    elif kind == "truncated picture":
        scene.write_bytes(scene.read_bytes()[:400])
    elif kind == "no picture at all":
        scene.write_text("this is text")
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(scene)
    elif kind == "missing picture":
        scene.unlink()
    elif kind == "missing map":
        depth.unlink()
    elif kind == "other shape":
        np.save(depth, values[:-1])
    elif kind == "other normals":
        np.save(normal, turned[..., :2])
    elif kind == "integers":
        np.save(depth, (values * 9).astype(np.int32))
    elif kind == "not a number":
        values[3, 4] = np.nan
        np.save(depth, values)
    elif kind == "negative":
        np.save(depth, -1 - values)
    elif kind == "no normals":
        np.save(normal, 0 * turned)
    elif kind == "truncated map":
        depth.write_bytes(depth.read_bytes()[:300])
    elif kind == "pickle":
        np.save(depth, np.array([{}], object), allow_pickle=True)
    return {
        "fine grid": ["--grid", 99, 2],
        "overlap": ["--overlap", 1],
        "typo": ["--gird", 2],
        "nothing": ["--coarse-depth", ""],
        "size": ["--depth-size", 518],
        "pool": ["--pool", 0],
    }.get(kind, [])


@pytest.mark.parametrize(
    "kind,told",
    [
        ("empty picture", "photo.png is empty"),
        ("truncated picture", "photo.png cannot be read"),
        ("no picture at all", "photo.png cannot be read"),
        ("one pixel", "photo.png is 1 x 1 pixels. At least 8"),
        ("missing picture", "no image at .*photo.png"),
        ("missing map", "no coarse depth at .*photo_coarse_depth.npy.*--coarse-depth"),
        ("other shape", r"shape \(40, 67\), but the image needs \(41, 67\)"),
        ("other normals", r"coarse normal has shape \(41, 67, 2\)"),
        ("integers", "dtype int32. Save it as float32"),
        ("not a number", r"1 values that are NaN or infinite, the first at \(3, 4\)"),
        ("truncated map", "photo_coarse_depth.npy is not a complete .npy file"),
        ("pickle", "photo_coarse_depth.npy is not a complete .npy file"),
        ("fine grid", "grid of 99 x 2 does not fit an image of 41 x 67"),
        ("overlap", "overlap 1.0 is out of range"),
        ("pool", "eval.pool 0 must be at least 1"),
        ("typo", "unrecognized arguments: --gird"),
        ("nothing", "an argument is empty"),
        ("size", "--depth-size is for --depth-weights"),
        ("negative", "coarse depth is nowhere above 0: .* disparity"),
        ("no normals", "coarse normal is 0 everywhere"),
    ],
)
def test_predict_refuses(weights, scene, tmp_path, kind, told):
    options = _broken(kind, scene)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=told):
        call(refine_command.main, scene, "--weights", weights, "--out", out, *options)
    assert not out.exists() or not list(out.iterdir())


def test_a_command_that_is_stopped_says_so_in_a_word(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert exit_status(stopped) == 130
    assert capsys.readouterr().err == "stopped\n"


def _foreign(path: Path, weights: Path, kind: str) -> Path:
    whole = (weights / "weights.safetensors").read_bytes()
    file = path / "w.safetensors"
    if kind == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "foreign":
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(3, np.float32)}, file)
    elif kind == "other model":
        file.write_bytes(whole.replace(b'\\"width\\": 16', b'\\"width\\": 32'))
    elif kind == "text":
        file.write_text("weights")
    return file


@pytest.mark.parametrize(
    "kind,told",
    [
        ("missing", "no weights at .*w.safetensors"),
        ("truncated", "w.safetensors is damaged or truncated"),
        ("text", "w.safetensors is neither a safetensors file nor a file of torch.save"),
        ("foreign", "w.safetensors has no configuration"),
        ("other model", "w.safetensors does not fit its own configuration"),
    ],
)
def test_weights_that_are_refused(weights, scene, tmp_path, kind, told):
    file = _foreign(tmp_path, weights, kind)
    with pytest.raises(UserError, match=told):
        call(refine_command.main, scene, "--weights", file, "--out", tmp_path / "out")


def test_a_folder_that_was_refined_in_place_holds_the_same_pictures(weights, scene):
    for _ in range(2):
        call(refine_command.main, scene.parent, "--weights", weights, "--out", scene.parent)
    made = sorted(p.name for p in scene.parent.glob("*.png"))
    assert made == ["photo.png", "photo_depth.png", "photo_normal.png"]


def test_an_output_folder_that_cannot_be_made_is_told(weights, scene, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot make the folder"):
        call(refine_command.main, scene, "--weights", weights, "--out", tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "script,arguments,told",
    [
        ("train.py", ["configs/tinny.py", "--workdir", "x"], "did you mean configs/tiny.py"),
        ("eval.py", ["--workdir", "nowhere"], "no weights at nowhere"),
    ],
)
def test_errors_are_one_line_with_status_2(script, arguments, told):
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and told in done.stderr
    assert done.stderr.count("\n") == 1
