"""`urgt refine`: what it writes, and what it rejects in one line."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from etils.epath import Path
from helpers import tiny_prior_networks
from helpers.command import call
from helpers.png import png_header
from PIL import Image
from safetensors.numpy import save_file

import urgt_jax
from urgt_jax.commands.refine import main
from urgt_jax.errors import NegativeResult, UserError
from urgt_jax.images.files import read_image
from urgt_jax.images.resize import resize_map
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.mark.parametrize(
    "options", [[], ["--grid", 3, 5], ["--grid", 0, 0], ["--overlap", 0.3, "--resident", 4]]
)
def test_refine_writes_maps_of_the_size_of_the_image(weights, scene, tmp_path, options):
    out = tmp_path / "new" / "out"
    call(main, scene, "--weights", weights, "--out", out, *options)
    depth = np.load(out / "photo_depth.npy")
    normal = np.load(out / "photo_normal.npy")
    assert depth.shape == (41, 67) and depth.dtype == np.float32
    assert normal.shape == (41, 67, 3) and normal.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    coarse = np.load(scene.with_name("photo_coarse_depth.npy"))
    assert 1e-4 < np.abs(depth - coarse).mean() < 0.3
    for kind in ("depth", "normal"):
        assert Image.open(out / f"photo_{kind}.png").size == (67, 41)
    assert len(list(out.iterdir())) == 4


def test_refine_uses_shipped_weights_and_a_folder_by_default(scene, monkeypatch, capsys):
    monkeypatch.chdir(scene.parent)
    call(main, scene.name)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("weights: scenes, shipped with urgt_jax")
    assert lines[1] == "photo.png: 67 x 41 pixels, 1 patch"
    assert lines[2] == "  coarse depth: 41 x 67 pixels, disparity"
    assert lines[3].endswith("refined/photo_*")
    assert len(list((scene.parent / "refined").iterdir())) == 4


def test_refine_writes_what_the_python_call_returns(weights, scene, tmp_path):
    call(main, scene.parent, "--weights", weights, "--out", tmp_path / "out")
    refiner = urgt_jax.load(weights / "weights.safetensors")
    depth = np.load(scene.with_name("photo_coarse_depth.npy"))
    normal = np.load(scene.with_name("photo_coarse_normal.npy"))
    result = refiner(read_image(scene), depth, normal)
    np.testing.assert_array_equal(result.depth, np.load(tmp_path / "out/photo_depth.npy"))
    np.testing.assert_array_equal(result.normal, np.load(tmp_path / "out/photo_normal.npy"))
    assert result.depth_confidence.shape == (41, 67)
    assert result.normal_confidence.min() > 1


def test_refine_takes_a_coarse_map_from_a_file_and_the_other_from_a_network(
    weights, scene, tmp_path, capsys
):
    normal_weights = tiny_prior_networks.save_both(tmp_path)["--normal-weights"]
    coarse = scene.with_name("photo_coarse_depth.npy")
    elsewhere = coarse.rename(tmp_path / "elsewhere.npy")
    options = ["--coarse-depth", elsewhere, "--normal-weights", normal_weights, "--save-coarse"]
    call(main, scene, "--weights", weights, "--out", tmp_path / "out", *options)
    assert "predicting coarse normals" in capsys.readouterr().out
    depth = np.load(tmp_path / "out" / "photo_coarse_depth.npy")
    np.testing.assert_array_equal(depth, np.load(elsewhere))
    assert len(list((tmp_path / "out").iterdir())) == 8


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("photo_depth.npy", ["--coarse-depth", "photo_depth.npy"]),
        ("photo_mask.png", ["--mask", "photo_mask.png"]),
        ("photo_coarse_depth.npy", ["--save-coarse"]),
    ],
)
def test_refine_replaces_no_file_that_it_reads(scene, tmp_path, name, options):
    folder = scene.parent
    (folder / "photo_mask.png").touch()
    (folder / "photo_depth.npy").touch()
    options = [folder / option if "." in option else option for option in options]
    out = folder / ".." / folder.name
    with pytest.raises(UserError, match=f"{name} would be replaced by a result. Choose another"):
        call(main, scene, "--weights", "scenes", "--out", out, *options)
    assert (folder / "photo_depth.npy").stat().length == 0


def test_refine_goes_on_after_a_bad_image_and_lists_it(weights, scene, tmp_path, capsys):
    for name in ("a_damaged", "z_whole"):
        for kind in ("depth", "normal"):
            coarse = scene.with_name(f"photo_coarse_{kind}.npy")
            scene.with_name(f"{name}_coarse_{kind}.npy").write_bytes(coarse.read_bytes())
        whole = scene.read_bytes()
        scene.with_name(f"{name}.png").write_bytes(whole if name == "z_whole" else whole[:400])
    out = tmp_path / "out"
    with pytest.raises(
        NegativeResult, match="1 of 3 images were not refined .list: .*/not_refined"
    ):
        call(main, scene.parent, "--weights", weights, "--out", out)
    assert "a_damaged.png cannot be read" in (out / "not_refined.txt").read_text()
    assert "a_damaged.png cannot be read" in capsys.readouterr().err
    depths = [path.name for path in sorted(out.glob("*_depth.npy"))]
    assert depths == ["photo_depth.npy", "z_whole_depth.npy"]


def write_coarse(folder: Path, suffix: str, depth: np.ndarray, normal: np.ndarray) -> None:
    """Write the coarse maps of photo.png in a format that keeps float32."""
    for kind, values in (("depth", depth), ("normal", normal)):
        path = folder / f"photo_coarse_{kind}{suffix}"
        if suffix == ".npz":
            np.savez(path, values)
        elif suffix == ".tif":
            cv2.imwrite(str(path), values[..., ::-1] if kind == "normal" else values)
        elif suffix == ".pfm":
            name = "PF" if kind == "normal" else "Pf"
            header = f"{name}\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
            path.write_bytes(header + values[::-1].tobytes())
        else:
            np.save(path, values)


@pytest.mark.parametrize("suffix", [".npz", ".tif", ".pfm"])
def test_refine_gives_the_same_result_whatever_the_format(weights, scene, tmp_path, suffix):
    depth = np.load(scene.with_name("photo_coarse_depth.npy"))
    normal = np.load(scene.with_name("photo_coarse_normal.npy"))
    call(main, scene, "--weights", weights, "--out", tmp_path / "npy")
    for kind in ("depth", "normal"):
        scene.with_name(f"photo_coarse_{kind}.npy").unlink()
    write_coarse(scene.parent, suffix, depth, normal)
    call(main, scene, "--weights", weights, "--out", tmp_path / "other")
    for kind in ("depth", "normal"):
        expected = np.load(tmp_path / "npy" / f"photo_{kind}.npy")
        result = np.load(tmp_path / "other" / f"photo_{kind}.npy")
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_refine_takes_the_small_16_bit_depth_of_a_sensor_with_holes(
    weights, scene, tmp_path, capsys
):
    truth = np.load(scene.with_name("photo_true_depth.npy"))
    sensor = np.round(resize_map(truth, (20, 33)) * 1000).astype(np.uint16)
    sensor[4:9, 5:12] = 0
    Image.fromarray(sensor).save(tmp_path / "lidar.png")
    out = tmp_path / "out"
    options = ["--coarse-depth", tmp_path / "lidar.png", "--depth-unit", "mm", "--fov", 60]
    scene.with_name("photo_coarse_normal.npy").unlink()
    call(main, scene, "--weights", weights, "--out", out, *options)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1]
        == "  coarse depth: 20 x 33 pixels, units of 0.001 metres, 5.3 % unknown and filled"
    )
    assert lines[2] == "  normals from depth, with a field of view of 60.0 degrees"
    depth = np.load(out / "photo_depth.npy")
    assert 0.5 < np.median(depth) / np.median(truth) < 2  # metres
    mask = np.asarray(Image.open(out / "photo_mask.png"))
    assert mask.shape == (41, 67) and 0.03 < 1 - mask.mean() < 0.08
    assert len(list(out.iterdir())) == 5


def test_refine_puts_the_sky_of_a_mask_far(weights, scene, tmp_path, capsys):
    sky = np.arange(41)[:, None].repeat(67, 1) < 10
    Image.fromarray(sky).save(tmp_path / "sky.png")
    options = ["--sky", tmp_path / "sky.png", "--out", tmp_path / "out"]
    call(main, scene, "--weights", weights, *options)
    assert "  sky: 24 % of the image" in capsys.readouterr().out.splitlines()
    depth = np.load(tmp_path / "out" / "photo_depth.npy")
    normal = np.load(tmp_path / "out" / "photo_normal.npy")
    assert (depth[sky] == 0).all() and (normal[sky] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(normal[~sky], axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "photo_sky.png")), sky)


def test_refine_saves_what_other_programs_open(weights, scene, tmp_path):
    out = tmp_path / "out"
    formats = ["npz", "png16", "glb", "ply", "camera", "compare", "confidence", "mask"]
    call(main, scene, "--weights", weights, "--out", out, "--fov", 60, "--save", *formats)
    assert {path.name.removeprefix("photo") for path in out.iterdir()} == {
        ".npz",
        ".glb",
        ".ply",
        "_depth16.png",
        "_depth16.json",
        "_normal16.png",
        "_normal16.json",
        "_camera.json",
        "_compare.html",
        "_depth_confidence.npy",
        "_normal_confidence.npy",
        "_mask.png",
    }
    call(main, scene, "--weights", weights, "--out", tmp_path / "npy")
    with np.load(out / "photo.npz") as archive:
        for kind in ("depth", "normal"):
            expected = np.load(tmp_path / "npy" / f"photo_{kind}.npy")
            np.testing.assert_array_equal(archive[kind], expected)


def test_refine_says_that_a_map_is_in_the_orientation_of_the_sensor(weights, scene, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(scene)
    image.save(scene, exif=exif)  # upright it is 67 x 41, the coarse maps are 41 x 67
    with pytest.raises(
        UserError, match=r"41 x 67, as the sensor stores it, .* np.rot90\(map, -1\)"
    ):
        call(main, scene, "--weights", weights, "--out", tmp_path / "out")


def test_refine_says_that_pooling_is_approximate(weights, scene, tmp_path, capsys):
    call(main, scene, "--weights", weights, "--out", tmp_path / "out", "--pool", 2)
    assert "16 patches, approximate: keys and values pooled over 2 x 2" in capsys.readouterr().out


def test_refine_skips_pictures_that_it_drew_before(weights, scene):
    for _ in range(2):
        call(main, scene.parent, "--weights", weights, "--out", scene.parent)
    pictures = sorted(path.name for path in scene.parent.glob("*.png"))
    assert pictures == ["photo.png", "photo_depth.png", "photo_normal.png"]


def damage(kind: str, scene: Path) -> None:
    """Spoil the image or one of its coarse maps."""
    depth_file = scene.with_name("photo_coarse_depth.npy")
    normal_file = scene.with_name("photo_coarse_normal.npy")
    depth = np.load(depth_file)
    normal = np.load(normal_file)
    if kind == "empty image":
        scene.write_bytes(b"")
    elif kind == "truncated image":
        scene.write_bytes(scene.read_bytes()[:400])
    elif kind == "text as image":
        scene.write_text("this is text")
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(scene)
    elif kind == "missing image":
        scene.unlink()
    elif kind == "missing depth":
        depth_file.unlink()
    elif kind == "missing normal":
        normal_file.unlink()
    elif kind == "depth of another shape":
        np.save(depth_file, depth[:-5])
    elif kind == "normals of two channels":
        np.save(normal_file, normal[..., :2])
    elif kind == "integers":
        np.save(depth_file, (depth * 9).astype(np.int32))
    elif kind == "only NaN":
        np.save(depth_file, depth * np.nan)
    elif kind == "negative depth":
        np.save(depth_file, depth - 2)
    elif kind == "metres":
        np.save(depth_file, 1 / (depth + 0.1))
    elif kind == "normals of OpenGL":
        np.save(normal_file, normal * [1, -1, -1])
    elif kind == "normals with y up":
        np.save(normal_file, np.load(scene.with_name("photo_true_normal.npy")) * [1, -1, 1])
        np.save(depth_file, 1 / np.load(scene.with_name("photo_true_depth.npy")))
    elif kind == "zero normals":
        np.save(normal_file, 0 * normal)
    elif kind == "truncated map":
        depth_file.write_bytes(depth_file.read_bytes()[:300])
    elif kind == "pickle":
        np.save(depth_file, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    "kind,message",
    [
        ("empty image", "photo.png is empty"),
        ("truncated image", "photo.png cannot be read. Save or download the image again"),
        ("text as image", "photo.png cannot be read. Save or download the image again"),
        ("one pixel", "photo.png is 1 x 1 pixels. At least 8 a side are needed"),
        ("missing image", "no image at .*photo.png"),
        (
            "missing depth",
            r"photo.png: no coarse depth map found \(looked for photo_coarse_depth.npy, .*\). Pass "
            "--coarse-depth FILE, or --accept-licences to download",
        ),
        (
            "missing normal",
            "photo.png: no coarse normal map. Pass --coarse-normal FILE, let a network make it "
            "with --normal-weights FILE, or pass --fov DEGREES",
        ),
        (
            "depth of another shape",
            "photo.png: coarse depth is 36 x 67, but its image is 41 x 67: the aspect ratios",
        ),
        ("normals of two channels", r"coarse_normal.npy has shape \(41, 67, 2\). A coarse normal"),
        ("integers", "coarse depth holds int32, .* not known. Pass --depth-unit: metres, milli"),
        ("only NaN", "photo.png: coarse depth has no known pixel"),
        ("metres", "coarse depth grows with the distance, .* Pass --depth-unit: metres"),
        (
            "normals of OpenGL",
            r"mean z 0.\d\d, .* other axes. Pass --normal-axes opengl for x right",
        ),
        ("normals with y up", "only with one of x and y reversed: .* Pass --normal-axes"),
        ("truncated map", "photo_coarse_depth.npy is not a complete .npy file"),
        ("pickle", "photo_coarse_depth.npy is not a complete .npy file"),
        ("negative depth", "coarse depth is nowhere above 0: .* disparity"),
        ("zero normals", "coarse normal is 0 everywhere"),
    ],
)
def test_refine_rejects_damaged_inputs(weights, scene, tmp_path, kind, message):
    damage(kind, scene)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        call(main, scene, "--weights", weights, "--out", out)
    assert not out.exists() or not list(out.iterdir())


def test_refine_looks_at_the_maps_before_it_decodes_a_large_image(weights, scene, tmp_path):
    scene.write_bytes(png_header(12_000, 20_000))  # decoding it would fail, after 0.7 GB
    np.save(scene.with_name("photo_coarse_depth.npy"), np.ones((67, 41), np.float32))
    message = "photo.png: coarse depth is 67 x 41, but its image is 12000 x 20000"
    with pytest.raises(UserError, match=message):
        call(main, scene, "--weights", weights, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "options,message",
    [
        (["--grid", 99, 2], "photo.png: a grid of 99 x 2 does not fit an image of 41 x 67"),
        (["--overlap", 1], "overlap 1.0 is out of range"),
        (["--pool", 0], "eval.pool 0 is out of range: it must be above 0"),
        (["--pool", 4], "pool 4 is larger than a patch, which has 2 x 3 tokens"),
        (["--resident", 0], "resident 0 must be at least 1"),
        (["--gird", 2], "unknown option --gird; did you mean --grid"),
        (["--coarse-depth", ""], "an argument is empty"),
        (["--coarse-depth", "nowhere.npy"], "no coarse depth map at nowhere.npy"),
        (
            ["--coarse-depth", "a.npy", "--depth-weights", "b.safetensors"],
            "--depth-weights: not allowed with argument --coarse-depth",
        ),
        (["--depth-unit", "feet"], "--depth-unit: the depth unit 'feet' is none of metres"),
        (["--normal-axes", "xyz"], "the axes 'xyz' are neither opencv, opengl, nor three letters"),
        (["--fov", 200], "the field of view 200.0 is out of range"),
        (["--save", "npy", "glb"], "photo.png: --save glb needs the camera, .* Pass --fov DEGREES"),
        (["--save", "obj"], "invalid choice: 'obj'"),
        (["--axes", "up"], "the axes 'up' are neither opencv, opengl, nor three letters"),
        (["--bits", "7"], "--bits: invalid choice: 7"),
        (["--mask", "nowhere.png"], "no mask at nowhere.png"),
        (["--sky", "nowhere.png"], "no mask of the sky at nowhere.png"),
        (["--depth-size", 518], "--depth-size needs --depth-weights"),
        (["--depth-size", 13, "--depth-weights", "w"], "--depth-size: must be at least 14 pixels"),
    ],
)
def test_refine_rejects_wrong_options(weights, scene, tmp_path, options, message):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        call(main, scene, "--weights", weights, "--out", out, *options)
    assert not out.exists() or not list(out.iterdir())


def test_refine_rejects_one_coarse_map_for_several_images(weights, scene, tmp_path):
    other = scene.with_name("other.png")
    other.write_bytes(scene.read_bytes())
    options = ["--coarse-depth", scene.with_name("photo_coarse_depth.npy")]
    with pytest.raises(UserError, match="--coarse-depth is for one image: for more, put NAME_"):
        call(main, scene, other, "--weights", weights, "--out", tmp_path / "out", *options)


def test_refine_rejects_an_output_folder_that_cannot_be_made(weights, scene, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot make the folder"):
        call(main, scene, "--weights", weights, "--out", tmp_path / "file" / "out")


def damaged_weights(folder: Path, weights: Path, kind: str) -> Path:
    """A file that is no weight file of a refiner."""
    whole = (weights / "weights.safetensors").read_bytes()
    path = folder / "w.safetensors"
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "foreign":
        save_file({"a": np.zeros(3, np.float32)}, path)
    elif kind == "changed":
        path.write_bytes(whole.replace(b'\\"width\\": 16', b'\\"width\\": 32'))
    elif kind == "other model":
        file = open_tensors(weights / "weights.safetensors")
        fields = file.metadata["urgt_jax"].replace('"width": 16', '"width": 32')
        write_safetensors(path, file.tensors, {"urgt_jax": fields})
    elif kind == "text":
        path.write_text("weights")
    elif kind == "prior network":
        tiny_prior_networks.save_random(path, tiny_prior_networks.DEPTH_ANYTHING, 0)
    return path


@pytest.mark.parametrize(
    "kind,message",
    [
        ("missing", "no weights at .*w.safetensors"),
        ("truncated", "w.safetensors is damaged or truncated"),
        ("text", "w.safetensors is neither a safetensors file nor a file of torch.save"),
        ("foreign", "w.safetensors has no configuration"),
        ("changed", "w.safetensors is damaged .* configuration is not the one that was written"),
        ("other model", "w.safetensors does not fit its own configuration"),
        ("prior network", "w.safetensors holds weights of Depth Anything V2, .* --depth-weights"),
    ],
)
def test_refine_rejects_weights_of_no_refiner(weights, scene, tmp_path, kind, message):
    path = damaged_weights(tmp_path, weights, kind)
    with pytest.raises(UserError, match=message):
        call(main, scene, "--weights", path, "--out", tmp_path / "out")


def test_refine_imports_neither_orbax_nor_training():
    # Flax imports optax itself; urgt_jax.training is what imports it in this package.
    code = (
        "import sys, urgt_jax.commands.refine\n"
        "print({'orbax', 'urgt_jax.training'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_import_urgt_jax_imports_no_jax():
    code = "import sys, urgt_jax; print('jax' in sys.modules, dir(urgt_jax) == urgt_jax.__all__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False True\n"
