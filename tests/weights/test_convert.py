"""Official weights become ours and come back, and errors list everything that is wrong."""

import math
import pickle
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from etils.epath import Path
from helpers import seeded_weights as seeded
from helpers.torch_archive import write_state_dict
from safetensors.numpy import load_file, save_file

from urgt_jax.errors import UserError
from urgt_jax.models.registry import abstract_params
from urgt_jax.training.step import initial_params
from urgt_jax.weights import detect, torch_names
from urgt_jax.weights.convert import convert, from_official
from urgt_jax.weights.tensors import Tensor
from urgt_jax.weights.weight_file import UNUSED_PREFIX, load_weights, save_weights

ROOT = Path(__file__).parents[2]
FIXTURE = np.load(seeded.GOLDEN / "urgt_pipeline.npz")
MODELS = {"urgt": "sd_urgt/", "dav2": "sd_dav2/", "metric3d": "sd_m3d/"}


def official_arrays(model: str) -> dict[str, np.ndarray]:
    """The official state dict of a small model."""
    return seeded.state(FIXTURE, MODELS[model])


def config_fields(model: str) -> dict:
    """What the shapes of that model cannot tell."""
    return seeded.settings(FIXTURE)[model]


def assert_same(a: dict, b: dict) -> None:
    """Both hold the same names and bits."""
    assert sorted(a) == sorted(b)
    for name, x in a.items():
        y = b[name]
        assert (x.shape, x.dtype) == (y.shape, y.dtype) and x.tobytes() == y.tobytes(), name


# Official weights to ours


@pytest.mark.parametrize("name", seeded.OFFICIAL_SHAPES)
def test_from_official_uses_every_tensor_or_knows_that_it_is_unused(name):
    official = {}
    for key, shape in seeded.OFFICIAL_SHAPES[name].items():
        official[key] = Tensor(tuple(shape), np.dtype(np.float32), lambda: None)
    _, plan = from_official(official, {}, name)
    num_official = sum(math.prod(shape) for shape in seeded.OFFICIAL_SHAPES[name].values())
    num_planned = sum(math.prod(tensor.shape) for tensor in plan.tensors.values())
    assert num_planned == num_official, "a parameter is lost, or counted twice"
    assert not any("ignored" in line or "initialized" in line for line in plan.report)
    for key in plan.tensors:
        if key.startswith(UNUSED_PREFIX):
            assert key.removeprefix(UNUSED_PREFIX) in seeded.OFFICIAL_SHAPES[name]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_convert_there_and_back_keeps_every_bit(tmp_path, model, suffix):
    arrays = official_arrays(model)
    source = tmp_path / f"official{suffix}"
    if suffix == ".pth":
        write_state_dict(source, arrays, "model_state_dict")
    else:
        save_file(arrays, source)
    convert(source, tmp_path / "ours.safetensors", config_fields(model))
    convert(tmp_path / "ours.safetensors", tmp_path / "back.safetensors")
    assert_same(load_file(tmp_path / "back.safetensors"), arrays)
    convert(tmp_path / "back.safetensors", tmp_path / "again.safetensors", config_fields(model))
    again = (tmp_path / "again.safetensors").read_bytes()
    assert again == (tmp_path / "ours.safetensors").read_bytes()


@pytest.mark.parametrize(
    "level,prefix",
    [(None, "module."), ("model_state_dict", ""), ("model_state_dict", "module.vggt.")],
)
def test_convert_ignores_levels_and_prefixes(tmp_path, level, prefix):
    arrays = official_arrays("urgt")
    prefixed = {prefix + name: x for name, x in arrays.items()}
    write_state_dict(tmp_path / "a.pth", prefixed, level)
    save_file(arrays, tmp_path / "b_official.safetensors")
    fields = config_fields("urgt")
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors", fields)
    convert(tmp_path / "b_official.safetensors", tmp_path / "b.safetensors", fields)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("kind,other", [("depth", "normal"), ("normal", "depth")])
@pytest.mark.parametrize("blind", [False, True])
def test_convert_sets_a_missing_prior_embedding_to_zero(tmp_path, kind, other, blind):
    arrays = official_arrays("urgt")
    for name in list(arrays):
        if name.startswith(f"{other}_head") or (blind and f"patch_embed_{other}" in name):
            del arrays[name]
    save_file(arrays, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", config_fields("urgt"))
    params, config = load_weights(tmp_path / "b.safetensors")
    assert config.model.outputs == (kind,)
    assert bool(np.any(params["encoder"][other]["proj"]["kernel"])) is not blind


def test_convert_makes_vggt_the_start_of_a_refiner(tmp_path, capsys):
    official = official_arrays("urgt")
    arrays = {}
    for name, x in official.items():
        if not name.startswith("normal_head") and "patch_embed_" not in name:
            arrays[name] = x
    arrays["camera_head.trunk.0.norm1.weight"] = np.ones(8, np.float32)
    arrays["track_head.feature_extractor.norm.weight"] = np.ones(8, np.float32)
    source = write_state_dict(tmp_path / "vggt.pth", arrays)
    convert(source, tmp_path / "start.safetensors", config_fields("urgt"))
    out = capsys.readouterr().out
    assert "dropped, the model has no such part: camera_head.trunk" in out
    assert "initialized as for training" in out and "normal_head.* (" in out
    params, config = load_weights(tmp_path / "start.safetensors")
    assert config.model.outputs == ("depth", "normal") and config.eval.fidelity == "exact"
    for layer in (params["depth_head"]["pyramid"]["last"], params["encoder"]["normal"]["proj"]):
        assert not np.any(layer["bias"])
        assert np.std(layer["kernel"]) == pytest.approx(1e-4, rel=0.3)
    kept = official["aggregator.frame_blocks.1.attn.proj.weight"]
    np.testing.assert_array_equal(params["within_patch"]["attn"]["proj"]["kernel"][1], kept.T)


# Ours to official names


def test_convert_exports_every_official_name_of_a_model_trained_here(tmp_path, micro):
    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "ours.safetensors", params, micro)
    convert(tmp_path / "ours.safetensors", tmp_path / "official.safetensors")

    def outside_blocks(names) -> set[str]:
        return {name for name in names if ".blocks." not in name and "_blocks." not in name}

    exported = load_file(tmp_path / "official.safetensors")
    assert outside_blocks(exported) == outside_blocks(seeded.OFFICIAL_SHAPES["urgt_full"])


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_convert_writes_no_torch_files(tmp_path, suffix):
    source = tmp_path / "ours.safetensors"
    with pytest.raises(UserError, match=f"out{suffix}: only safetensors .*Pass .*out.safetensors"):
        convert(source, tmp_path / f"out{suffix}")


def _tensor_bytes(path) -> int:
    """The size of a safetensors file without its header, of which half precision saves nothing."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


def test_convert_to_half_is_half_the_size_and_loads_as_float32(tmp_path, micro):
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.standard_normal(leaf.shape, np.float32)

    params = jax.tree.map(draw, abstract_params(micro.model))
    save_weights(tmp_path / "whole.safetensors", params, micro)
    convert(tmp_path / "whole.safetensors", tmp_path / "half.safetensors", half=True)
    assert _tensor_bytes(tmp_path / "half.safetensors") == (
        _tensor_bytes(tmp_path / "whole.safetensors") // 2
    )
    loaded, config = load_weights(tmp_path / "half.safetensors")
    assert config == micro
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a.astype(np.float16), np.asarray(b).astype(np.float16))


def test_convert_to_half_rejects_values_that_float16_cannot_hold(tmp_path, micro):
    huge = jax.tree.map(lambda x: np.full(x.shape, 1e6, x.dtype), abstract_params(micro.model))
    save_weights(tmp_path / "huge.safetensors", huge, micro)
    with pytest.raises(UserError, match="float16 cannot hold"):
        convert(tmp_path / "huge.safetensors", tmp_path / "h.safetensors", half=True)
    assert not (tmp_path / "h.safetensors").exists()


# Wrong input


def spoil(kind: str) -> tuple[dict, dict]:
    """Tensors and configuration of Depth Anything with one kind of mistake."""
    arrays = official_arrays("dav2")
    fields = dict(config_fields("dav2"))
    if kind == "many":
        del arrays["pretrained.norm.bias"]
        del arrays["depth_head.projects.2.weight"]
        arrays["depth_head.strange"] = np.zeros(3, np.float32)
        arrays["pretrained.blocks.1.attn.proj.weight"] = np.zeros((48, 47), np.float32)
    elif kind == "nan":
        arrays["pretrained.norm.bias"] = np.full(48, np.nan, np.float32)
    elif kind == "foreign":
        arrays = {"fc.weight": np.zeros((3, 3), np.float32)}
    elif kind == "contradiction":
        fields["features"] = 64
    elif kind == "typo":
        fields = {"num_head": 3}
    elif kind == "word":
        fields["num_heads"] = "three"
    elif kind == "one layer":
        fields["layers"] = 3
    elif kind == "silent":
        fields = {}
    return arrays, fields


@pytest.mark.parametrize(
    "kind,words",
    [
        ("many", ["2 missing (", "pretrained.norm.bias", "depth_head.projects.2.weight",
                  "1 unexpected (depth_head.strange)", "1 mis-shaped",
                  "pretrained.blocks.1.attn.proj.weight (48, 47) instead of (48, 48)"]),
        ("nan", ["pretrained.norm.bias", "NaN or infinite"]),
        ("foreign", ["none of DINOv2, VGGT, URGT", "fc.weight"]),
        ("contradiction", ["sets features to 64, but the tensors", "have 32"]),
        ("typo", ["unknown field num_head; did you mean num_heads"]),
        ("word", ["num_heads 'three' is not a count"]),
        ("one layer", ["layers 3 is not a list of counts"]),
        ("silent", ["set num_heads, layers in --config"]),
    ],
)  # fmt: skip
def test_convert_reports_everything_that_does_not_fit_at_once(tmp_path, kind, words):
    arrays, fields = spoil(kind)
    source = write_state_dict(tmp_path / "a.pth", arrays)
    with pytest.raises(UserError) as caught:
        convert(source, tmp_path / "b.safetensors", fields)
    for word in words:
        assert word in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_convert_does_not_confuse_our_files_with_official_ones(tmp_path, micro):
    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "ours.safetensors", params, micro)
    with pytest.raises(UserError, match="--config is for official weights"):
        convert(tmp_path / "ours.safetensors", tmp_path / "x.safetensors", {"num_heads": 2})
    save_file(official_arrays("dav2"), tmp_path / "official.safetensors")
    with pytest.raises(UserError, match="--half needs a weight file"):
        convert(tmp_path / "official.safetensors", tmp_path / "x.safetensors", half=True)


def test_convert_reports_missing_tensors_of_our_own_files(tmp_path, micro):
    params = jax.device_get(initial_params(micro.model, 0))
    del params["within_patch"]["norm1"]["bias"]
    save_weights(tmp_path / "ours.safetensors", params, micro)
    with pytest.raises(UserError, match="1 missing .within_patch.norm1.bias"):
        convert(tmp_path / "ours.safetensors", tmp_path / "x.safetensors")


class Hostile:
    """Creates a file when its pickle is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def run_command(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "urgt_jax", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_convert_command_executes_nothing_of_a_hostile_checkpoint(tmp_path):
    source = tmp_path / "evil.pth"
    marker = tmp_path / "marker"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": Hostile(marker)}, 2))
    done = run_command(source, tmp_path / "b.safetensors")
    assert done.returncode == 2 and not marker.exists()
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]
    pickle.loads(pickle.dumps(Hostile(marker), 2))
    assert marker.exists(), "the checkpoint was not hostile at all"


# Cost

MEASURE = """
import resource
import sys
from etils.epath import Path

from urgt_jax.models import registry
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.weights.convert import convert


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


registry.abstract_params(registry.network_config(DepthAnythingConfig()))
before = peak()
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak() - before)
"""


# Flax imports optax by itself, so this looks for modules of ours that do.
LIST_IMPORTS = """
import sys

import urgt_jax.commands.convert
import urgt_jax.weights.convert

for name, module in sys.modules.items():
    print(name)
    if name.startswith("urgt_jax") and hasattr(module, "optax"):
        print("our_optax")
"""


def test_convert_streams(tmp_path):
    """Peak memory beyond the program's own stays below 1.5 times the source's 99 MB."""
    arrays = {}
    for name, shape in seeded.OFFICIAL_SHAPES["dav2_vits"].items():
        arrays[name] = seeded.draw(name, tuple(shape), 1)
    source = write_state_dict(tmp_path / "vits.pth", arrays)
    command = [sys.executable, "-c", MEASURE, source, tmp_path / "ours.safetensors"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = int(done.stdout.split()[-1])
    assert growth < 1.5 * source.stat().length, f"{growth / 1e6:.0f} MB"
    _, config = load_weights(tmp_path / "ours.safetensors", "depth_anything")
    assert config == detect.infer_depth_anything(arrays, detect.UserConfig({}, ""))


def test_convert_command_imports_neither_training_nor_inference():
    done = subprocess.run(
        [sys.executable, "-c", LIST_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    assert "urgt_jax.weights.convert" in modules
    for unwanted in ("orbax", "torch", "tensorflow", "urgt_jax.training", "urgt_jax.inference"):
        assert unwanted not in modules
    assert "our_optax" not in modules


@pytest.mark.parametrize("name", torch_names.LAYOUTS)
def test_layouts_are_exact_in_both_directions(name):
    shapes = {"pointwise": (6, 5), "conv": (3, 3, 5, 6), "token": (14 * 14 * 3, 5)}
    shapes |= {"upsample2": (5, 2 * 2 * 6), "upsample4": (5, 4 * 4 * 6)}
    ours = np.random.default_rng(0).random(shapes.get(name, (4, 6)), np.float32)
    layout = torch_names.LAYOUTS[name]
    official = layout.to_official(ours)
    np.testing.assert_array_equal(layout.to_ours(official), ours)
    rule = torch_names.Rule("theirs", "ours", name)
    assert torch_names.official_shape(rule, ours.shape) == official.shape
