"""Commands whose paths are in a store: they write the same bytes as with local paths."""

import json
from dataclasses import replace

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets
from helpers.command import call
from safetensors.numpy import save_file

from urgt_jax import remote
from urgt_jax.commands import convert, eval, priors, refine
from urgt_jax.config_files import with_changes
from urgt_jax.data.unreal4k.prepare import prepare
from urgt_jax.data.unreal4k.records import open_tiles
from urgt_jax.errors import UserError
from urgt_jax.training.loop import train
from urgt_jax.weights.tensor_files import open_tensors
from urgt_jax.weights.weight_file import load_weights

pytestmark = pytest.mark.usefixtures("empty_cache")

BUCKET = "fake://bucket"


@pytest.fixture
def bucket(store) -> Path:
    """A bucket of the store."""
    return Path(BUCKET)


def _contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their paths inside it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in remote.all_files(folder)}


def test_convert_reads_and_writes_weights_in_a_store(weights, bucket, tmp_path):
    remote.copy_folder(weights, bucket / "run")
    call(convert.main, weights, tmp_path / "half.safetensors", "--half")
    call(convert.main, bucket / "run", bucket / "half.safetensors", "--half")
    expected = (tmp_path / "half.safetensors").read_bytes()
    assert (bucket / "half.safetensors").read_bytes() == expected
    message = "fake://bucket/half.safetensors is SRC itself"
    with pytest.raises(UserError, match=message):
        call(convert.main, bucket / "half.safetensors", bucket / "half.safetensors", "--half")


def test_weights_in_a_store_are_named_by_their_address_in_errors(bucket, tmp_path):
    save_file({"x": np.zeros(9, np.float32)}, tmp_path / "other.safetensors")
    remote.upload(tmp_path / "other.safetensors", bucket / "other.safetensors")
    with pytest.raises(UserError, match="fake://bucket/other.safetensors has no configuration"):
        load_weights(f"{BUCKET}/other.safetensors")
    with pytest.raises(UserError, match="no weights at fake://bucket/missing. Pass"):
        load_weights(f"{BUCKET}/missing")


def test_tiles_are_prepared_locally_and_read_from_stores_that_array_record_knows(bucket, tmp_path):
    with pytest.raises(UserError, match="fake://bucket is not a local path. Prepare the data set"):
        prepare(tmp_path, bucket)
    with pytest.raises(UserError, match="fake://bucket: tiles are read from gs:// or from local"):
        open_tiles(bucket, "train")


@pytest.mark.slow  # it compiles
def test_refine_reads_and_writes_in_a_store(weights, scene, bucket, tmp_path, capsys):
    options = ["--save", "npy", "png", "png16", "npz", "ply", "compare", "--fov", 60]
    call(refine.main, scene, "--weights", weights, "--out", tmp_path / "out", *options)
    local = capsys.readouterr().out
    remote.copy_folder(weights, bucket / "run")
    for path in tmp_path.glob("photo*"):
        remote.upload(path, bucket / "photos" / path.name)
    words = ["--weights", bucket / "run", "--out", bucket / "out"]
    call(refine.main, bucket / "photos", *words, *options)
    assert _contents(bucket / "out") == _contents(tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(local.splitlines())
    assert lines[0] == "fake://bucket/photos/photo.png: 67 x 41 pixels, 16 patches"
    assert lines[-1] == "  before and after: fake://bucket/out/photo_compare.html"


def _tensors(path: Path) -> dict[str, bytes]:
    """The bytes of the tensors of a weight file; its configuration names folders."""
    return {name: tensor.read().tobytes() for name, tensor in open_tensors(path).tensors.items()}


@pytest.mark.slow  # it trains
def test_run_on_a_data_set_in_a_store_has_the_bits_of_a_local_one(micro, bucket, tmp_path):
    (tmp_path / "photos").mkdir()
    photos = miniature_sets.measured(tmp_path / "photos", 3, (56, 84))
    changes = {"model.outputs": ("depth",), "optim.steps": 2}
    config = with_changes(micro, changes)
    mix = (1.0, 0.0, 0.0, 0.0)
    remote.copy_folder(photos, bucket / "photos")
    results = {}
    for folder in (tmp_path, bucket):
        call(priors.main, "--data", "folder", folder / "photos", "--degrade", "middle")
        place = str(folder / "photos")
        data = replace(config.data, source="folder", path=place, mix=mix, batch=2)
        here = replace(config, data=data)
        train(here, folder / "run")
        train(replace(here, init=str(folder / "run")), folder / "tuned")
        words = ["--data", "folder", folder / "photos", "--out", folder / "scores"]
        call(eval.main, "--workdir", folder / "tuned", *words)
        results[folder] = [
            _tensors(folder / "run/weights.safetensors"),
            _tensors(folder / "tuned/weights.safetensors"),
            json.loads((folder / "scores/metrics.json").read_text())["per_image"],
            sorted(_contents(folder / "scores")),
        ]
    assert results[tmp_path] == results[bucket]
