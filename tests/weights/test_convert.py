"""Official weights become ours and come back, and what is wrong with them is told at once."""

import gzip
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import seeded_weights as seeded

from urgt_jax.commands.convert import main
from urgt_jax.config import SIZES, Config, Eval, Model
from urgt_jax.errors import UserError
from urgt_jax.models.registry import abstract_params
from urgt_jax.weights import detect, download
from urgt_jax.weights.convert import convert, from_official
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors, write_torch
from urgt_jax.weights.tensors import Tensor
from urgt_jax.weights.weight_file import UNUSED_PREFIX, initialize_from, load_weights, save_weights

ROOT = Path(__file__).parents[2]
NAMES = json.loads(gzip.decompress((seeded.GOLDEN / "official_names.json.gz").read_bytes()))
FIXTURE = np.load(seeded.GOLDEN / "urgt_pipeline.npz")
MODELS = {"urgt": "sd_urgt/", "dav2": "sd_dav2/", "metric3d": "sd_m3d/"}


def official(model: str) -> dict[str, np.ndarray]:
    """A small model's official state dict."""
    return seeded.state(FIXTURE, MODELS[model])


def told(model: str) -> dict:
    """What the shapes of that model cannot tell."""
    return seeded.settings(FIXTURE)[model]


def write(path: Path, arrays: dict, level: str | None = None) -> Path:
    """A file of official names, as torch or safetensors has it."""
    shapes = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    if path.suffix == ".pth":
        write_torch(path, shapes, arrays.__getitem__, level)
    else:
        write_safetensors(path, shapes, arrays.__getitem__, {})
    return path


def same(a: dict, b: dict) -> None:
    """Both hold the same names and bits."""
    assert sorted(a) == sorted(b)
    for name, x in a.items():
        y = b[name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype) and x.tobytes() == y.tobytes(), name


def read(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """All tensors of a file."""
    found = open_tensors(path).tensors
    return {name.removeprefix(prefix): x.read() for name, x in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_official_name_is_used_or_known_to_be_unused(name):
    zeros = {
        key: Tensor(tuple(shape), np.dtype(np.float32), lambda: None)
        for key, shape in NAMES[name].items()
    }
    config, plan = from_official(zeros, {}, name)
    carried = [n for n in plan.shapes if n.startswith(UNUSED_PREFIX)]
    count = lambda names: sum(int(np.prod(plan.shapes[n][0])) for n in names)  # noqa: E731
    total = sum(int(np.prod(shape)) for shape in NAMES[name].values())
    assert count(plan.shapes) == total, "a parameter is lost, or counted twice"
    assert not any("not of the model" in line or "anew" in line for line in plan.told)
    assert all(n.removeprefix(UNUSED_PREFIX) in NAMES[name] for n in carried)


def test_published_sizes_are_told_from_shapes():
    config = lambda name: from_official(  # noqa: E731
        {k: Tensor(tuple(s), np.dtype(np.float32), lambda: None) for k, s in NAMES[name].items()},
        {}, name,
    )[0]  # fmt: skip
    assert config("urgt_full").model == SIZES["large"]
    assert config("urgt_full").eval == Eval(grid=(8, 8), overlap=0.3, fidelity="official")
    assert config("dav2_vitg").layers == (9, 19, 29, 39)
    assert config("dav2_vitg").vit.ffn == "swiglu" and config("dav2_vitg").vit.num_heads == 24
    iters = [config(f"metric3d_vit_{size}").iters for size in ("small", "large", "giant2")]
    assert iters == [4, 8, 8]
    assert config("metric3d_vit_giant2").layers == (9, 19, 29, 39)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_there_and_back_bit_for_bit(tmp_path, model, suffix):
    source = write(tmp_path / f"official{suffix}", official(model))
    convert(source, tmp_path / "ours.safetensors", told(model))
    convert(tmp_path / "ours.safetensors", tmp_path / f"back{suffix}")
    same(read(tmp_path / f"back{suffix}", "model_state_dict."), official(model))
    convert(tmp_path / f"back{suffix}", tmp_path / "again.safetensors", told(model))
    same(read(tmp_path / "again.safetensors"), read(tmp_path / "ours.safetensors"))


@pytest.mark.parametrize("level,prefix", [
    (None, "module."), ("model_state_dict", ""), ("model_state_dict", "module.vggt."),
])  # fmt: skip
def test_levels_and_prefixes_do_not_matter(tmp_path, level, prefix):
    arrays = {prefix + name: x for name, x in official("urgt").items()}
    convert(write(tmp_path / "a.pth", arrays, level), tmp_path / "a.safetensors",
                    told("urgt"))  # fmt: skip
    convert(write(tmp_path / "b.safetensors", official("urgt")), tmp_path / "c.safetensors",
                    told("urgt"))  # fmt: skip
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


@pytest.mark.parametrize("kind,other", [("depth", "normal"), ("normal", "depth")])
@pytest.mark.parametrize("blind", [False, True])
def test_a_model_with_one_head(tmp_path, kind, other, blind):
    """Without the other prior's embedding, if it is blind to it, it is as if that were zero."""
    arrays = {n: x for n, x in official("urgt").items() if not n.startswith(f"{other}_head")}
    if blind:
        arrays = {n: x for n, x in arrays.items() if f"patch_embed_{other}" not in n}
    convert(write(tmp_path / "a.safetensors", arrays), tmp_path / "b.safetensors",
                    told("urgt"))  # fmt: skip
    params, config = load_weights(tmp_path / "b.safetensors")
    assert config.model.outputs == (kind,)
    assert bool(np.any(params["encoder"][other]["proj"]["kernel"])) is not blind


def test_vggt_is_the_start_of_a_refiner(tmp_path, capsys):
    arrays = {
        name: x
        for name, x in official("urgt").items()
        if not name.startswith("normal_head") and "patch_embed_" not in name
    }
    arrays["camera_head.trunk.0.norm1.weight"] = np.ones(8, np.float32)
    arrays["track_head.feature_extractor.norm.weight"] = np.ones(8, np.float32)
    source = write(tmp_path / "vggt.pth", arrays, None)
    convert(source, tmp_path / "start.safetensors", told("urgt"))
    out = capsys.readouterr().out
    assert "dropped, the model has no such part: camera_head.trunk" in out
    assert "drawn anew" in out and "normal_head.* (" in out
    params, config = load_weights(tmp_path / "start.safetensors")
    assert config.model.outputs == ("depth", "normal") and config.eval.fidelity == "exact"
    for part in (params["depth_head"]["pyramid"]["last"], params["encoder"]["normal"]["proj"]):
        assert not np.any(part["bias"])
        assert np.std(part["kernel"]) == pytest.approx(1e-4, rel=0.3)
    kept = official("urgt")["aggregator.frame_blocks.1.attn.proj.weight"]
    np.testing.assert_array_equal(params["within_patch"]["attn"]["proj"]["kernel"][1], kept.T)


@pytest.mark.parametrize("registers", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dinov2_is_the_encoder_that_training_starts_from(tmp_path, micro, registers):
    part = "aggregator.patch_embed."
    arrays = {n.removeprefix(part): x for n, x in official("urgt").items() if n.startswith(part)}
    arrays = {n: x for n, x in arrays.items() if "patch_embed_" not in n}
    if not registers:
        del arrays["register_tokens"]
    given = {"num_heads": 4}
    source = write(tmp_path / "dinov2.pth", arrays, None)
    convert(source, tmp_path / "dinov2.safetensors", given)
    params, vit = load_weights(tmp_path / "dinov2.safetensors", "encoder")
    assert vit.resample == ("antialias" if registers else "offset")
    model = Model(
        vit, num_heads=4, depth=2, dpt_layers=(0, 0, 1, 1), patch_size=(28, 42), dpt_features=8,
        dpt_channels=(8, 8, 8, 8),
    )  # fmt: skip
    config = Config(model=model, init=str(tmp_path / "dinov2.safetensors"))
    from urgt_jax.training.step import initial_params

    drawn = initial_params(model, 0)
    started = initialize_from(drawn, config)
    same_leaf = lambda a, b: np.testing.assert_array_equal(a, b)  # noqa: E731
    jax.tree.map(same_leaf, started["encoder"]["blocks"], params["blocks"])
    jax.tree.map(same_leaf, started["within_patch"], drawn["within_patch"])
    assert np.std(started["encoder"]["depth"]["proj"]["kernel"]) < 2e-4
    wrong = Config(model=micro.model, init=config.init)
    with pytest.raises(UserError, match="init: .*dinov2.safetensors does not fit the model"):
        initialize_from(initial_params(micro.model, 0), wrong)


def _spoiled(kind: str) -> tuple[dict, dict]:
    arrays, given = official("dav2"), dict(told("dav2"))
    if kind == "many":
        del arrays["pretrained.norm.bias"], arrays["depth_head.projects.2.weight"]
        arrays["depth_head.strange"] = np.zeros(3, np.float32)
        arrays["pretrained.blocks.1.attn.proj.weight"] = np.zeros((48, 47), np.float32)
    elif kind == "nan":
        arrays["pretrained.norm.bias"] = np.full(48, np.nan, np.float32)
    elif kind == "foreign":
        arrays = {"fc.weight": np.zeros((3, 3), np.float32)}
    elif kind == "contradiction":
        given["features"] = 64
    elif kind == "typo":
        given = {"num_head": 3}
    elif kind == "word":
        given["num_heads"] = "three"
    elif kind == "one layer":
        given["layers"] = 3
    elif kind == "silent":
        given = {}
    return arrays, given


@pytest.mark.parametrize(
    "kind,words",
    [
        ("many", ["2 missing (", "pretrained.norm.bias", "depth_head.projects.2.weight",
                  "1 unexpected (depth_head.strange)", "1 of another shape",
                  "pretrained.blocks.1.attn.proj.weight (48, 47) for (48, 48)"]),
        ("nan", ["pretrained.norm.bias", "NaN or infinite"]),
        ("foreign", ["none of DINOv2, VGGT, URGT", "fc.weight"]),
        ("contradiction", ["features 64, but the tensors", "say 32"]),
        ("typo", ["unknown field num_head; did you mean num_heads"]),
        ("word", ["num_heads 'three' is not a count"]),
        ("one layer", ["layers 3 is not a list of counts"]),
        ("silent", ["tell num_heads, layers by --config"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_at_once(tmp_path, kind, words):
    arrays, given = _spoiled(kind)
    source = write(tmp_path / "a.pth", arrays)
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "b.safetensors", given)
    assert all(word in str(caught.value) for word in words), caught.value
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def _run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "urgt_jax", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


class Hostile:
    """What a pickle can ask for."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_hostile_checkpoint_runs_nothing(tmp_path):
    source, marker = tmp_path / "evil.pth", tmp_path / "marker"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Hostile(marker)}, 2))
    done = _run(source, tmp_path / "b.safetensors")
    assert done.returncode == 2 and not marker.exists()
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]
    pickle.loads(pickle.dumps(Hostile(marker), 2))
    assert marker.exists(), "the checkpoint was not hostile at all"


def test_ours_and_official_are_not_confused(tmp_path, micro):
    from urgt_jax.training.step import initial_params

    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "ours.safetensors", params, micro)
    source = write(tmp_path / "dav2.pth", official("dav2"))
    with pytest.raises(UserError, match="urgt convert"):
        load_weights(write(tmp_path / "raw.safetensors", official("dav2")))
    convert(source, tmp_path / "dav2.safetensors", told("dav2"))
    with pytest.raises(UserError, match="holds weights of Depth Anything V2, but URGT is asked"):
        load_weights(tmp_path / "dav2.safetensors")
    with pytest.raises(UserError, match="--config is for official weights"):
        convert(tmp_path / "ours.safetensors", tmp_path / "x.pth", {"num_heads": 2})


def test_a_model_trained_here_gets_every_official_name(tmp_path, micro):
    from urgt_jax.training.step import initial_params

    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "ours.safetensors", params, micro)
    convert(tmp_path / "ours.safetensors", tmp_path / "official.pth")
    found = read(tmp_path / "official.pth", "model_state_dict.")
    general = lambda names: {n for n in names if ".blocks." not in n and "_blocks." not in n}  # noqa: E731
    assert general(found) == general(NAMES["urgt_full"])


def test_half_precision_is_half_the_size_and_loads_as_float32(tmp_path, micro):
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    params = jax.tree.map(draw, abstract_params(micro.model))
    save_weights(tmp_path / "whole.safetensors", params, micro)
    convert(tmp_path / "whole.safetensors", tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    found, config = load_weights(tmp_path / "half.safetensors")
    assert config == micro
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a.astype(np.float16), np.asarray(b).astype(np.float16))
    huge = jax.tree.map(lambda x: x + 1e6, params)
    save_weights(tmp_path / "huge.safetensors", huge, micro)
    with pytest.raises(UserError, match="float16 cannot hold"):
        convert(tmp_path / "huge.safetensors", tmp_path / "h.safetensors", half=True)
    assert not (tmp_path / "h.safetensors").exists()


def test_without_a_network_the_file_to_fetch_is_told(tmp_path, monkeypatch, capsys):
    def offline(*_):
        raise OSError("no network")

    monkeypatch.setattr(download, "_fetched", offline)
    monkeypatch.setattr(sys, "argv", ["x", "--download", "urgt", str(tmp_path / "u.safetensors")])
    with pytest.raises(UserError) as caught:
        main()
    url = "https://huggingface.co/Kingslanding/Any-Resolution-Any-Geometry/resolve/main/"
    assert f"fetch {url}ckpt_best.pth by other means and run" in str(caught.value)
    assert "urgt convert ckpt_best.pth" in str(caught.value)
    assert "licence: MIT" in capsys.readouterr().out


MEASURE = """
import resource, sys
from pathlib import Path
from urgt_jax import convert
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
convert.structure(convert.families.network(__import__('urgt_jax').config.DepthAnythingConfig()))
before = peak()
convert.convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak() - before)
"""


def test_conversion_streams(tmp_path):
    """Peak memory beyond the program's own stays below 1.5 times the source's 99 MB."""
    names = NAMES["dav2_vits"]
    arrays = {name: seeded.draw(name, tuple(shape), 1) for name, shape in names.items()}
    source = write(tmp_path / "vits.pth", arrays)
    command = [sys.executable, "-c", MEASURE, source, tmp_path / "ours.safetensors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1])
    assert grown < 1.5 * source.stat().st_size, f"{grown / 1e6:.0f} MB"
    params, config = load_weights(tmp_path / "ours.safetensors", "depth_anything")
    assert config == detect.infer_depth_anything(arrays, detect.UserConfig({}, "")) and params
