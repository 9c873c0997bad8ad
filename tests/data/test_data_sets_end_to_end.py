"""A data set from its files to a trained and scored model, by the commands a user gives."""

import json

import numpy as np
import pytest
from etils.epath import Path
from helpers import miniature_sets as miniature
from helpers.command import call

from urgt_jax.commands import eval as eval_command
from urgt_jax.commands import prepare as prepare_command
from urgt_jax.commands import priors as priors_command
from urgt_jax.config import Data
from urgt_jax.config_files import with_changes
from urgt_jax.data import pipeline
from urgt_jax.data.priors.filters import shrink
from urgt_jax.data.sources import open_prior_source
from urgt_jax.data.unreal4k.records import Unreal4k
from urgt_jax.errors import UserError
from urgt_jax.training.loop import train

SIZE = (48, 72)


def _maps(prepared, split: str, folder):
    """Small disparity and normal maps, such as a network saves."""
    folder.mkdir(exist_ok=True)
    frames = Unreal4k(prepared, split)
    for i in range(len(frames)):
        sample = frames.read(i)
        disparity = shrink((7 / sample.depth + 2).astype(np.float32), (12, 18))
        normal = np.tile(np.float32([0.1, 0.2, -1]), (12, 18, 1))
        np.save(folder / f"{frames.name(i)}_depth.npy", disparity)
        np.save(folder / f"{frames.name(i)}_normal.npy", normal)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """UnrealStereo4K in miniature, with stored priors of two splits."""
    folder = Path(tmp_path_factory.mktemp("set"))
    source = miniature.unreal4k(folder / "source", SIZE, frames=4)
    out = folder / "u4k"
    call(prepare_command.main, "unreal4k", "--source", source, "--out", out, "--workers", 1)
    for split in ("train", "test_in"):
        maps = _maps(out, split, folder / "maps")
        call(
            priors_command.main,
            *("--data", "unreal4k", out, "--split", split),
            *("--depth-maps", maps, "--normal-maps", maps),
        )
    return out


@pytest.fixture(scope="module")
def on_u4k(micro, prepared):
    """The smallest model, trained on it."""
    changes = {
        "data.source": "unreal4k",
        "data.path": str(prepared),
        "data.mix": (0.0, 1.0, 0.0, 0.0),
        "data.batch": 2,
        "optim.steps": 2,
    }
    return with_changes(micro, changes)


@pytest.mark.slow
def test_a_model_is_trained_and_scored_on_a_data_set(on_u4k, tmp_path, capsys):
    workdir = tmp_path / "run"
    train(on_u4k, workdir, report=print)
    call(eval_command.main, "--workdir", workdir)
    found = json.loads((workdir / "metrics.json").read_text())
    assert found["data"] == "unreal4k, split test_in" and found["images"] == 2  # eval.images
    assert found["coarse"]["depth"]["see"] > 0  # disparity in pixels is known
    assert 0 < found["refined"]["normal"]["mean"] < 90  # against pseudo-normals
    assert found["refined"]["depth"]["ce"] > 0 and found["refined"]["depth"]["d3r"] >= 0
    assert "patches/s" in capsys.readouterr().out


def test_batch_reads_only_the_tiles_of_its_patches(on_u4k, monkeypatch):
    read_tile = Unreal4k._read_tile
    tiles = []

    def recording(self, index, number):
        tiles.append((index, number))
        return read_tile(self, index, number)

    monkeypatch.setattr(Unreal4k, "_read_tile", recording)
    batches = pipeline.Batches(on_u4k)
    tiles.clear()  # of the images whose units were checked
    batch = batches[0]
    assert len(tiles) == 2 * 4  # two images, 2 x 2 patches each
    assert batch["image"].shape == (2, 4, 28, 42, 3) and batch["image"].dtype == np.uint8
    assert batch["valid"].any() and np.isfinite(batch["target"]).all()


def test_the_target_is_the_truth_on_the_scale_of_the_whole_coarse_map(on_u4k, prepared):
    pictures = open_prior_source(on_u4k, "train")
    whole = pictures.read(0)
    part = pictures.read(0, (slice(10, 30), slice(20, 60)))
    assert part.fit == whole.fit
    np.testing.assert_array_equal(part.coarse_depth, whole.coarse_depth[10:30, 20:60])
    goal = whole.fit.scale / whole.depth + whole.fit.shift
    seen = whole.valid
    slope, shift = np.polyfit(goal[seen], whole.coarse_depth[seen], 1)
    assert slope == pytest.approx(1, abs=1e-5) and shift == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "changes, pattern",
    [
        ({"data.priors_path": "nowhere"}, "no coarse maps in nowhere.*urgt priors"),
        ({"prior.kind": "depth"}, "hold disparity: set --prior.kind disparity"),
        ({"data.max_depth": 60.0}, "fitted up to 80"),
        ({"data.path": "elsewhere"}, "elsewhere holds no prepared data set"),
    ],
)
def test_train_fails_at_once_if_data_or_coarse_maps_are_missing(on_u4k, tmp_path, changes, pattern):
    with pytest.raises(UserError, match=pattern):
        train(with_changes(on_u4k, changes), tmp_path / "run")


def test_exact_normals_are_refused_where_there_are_none(on_u4k):
    with pytest.raises(UserError, match="loss.normal_target exact: unreal4k has no exact normals"):
        pipeline.Batches(with_changes(on_u4k, {"loss.normal_target": "exact"}))[0]


def test_data_needs_a_folder_for_data_sets_and_none_for_scenes():
    with pytest.raises(UserError, match="needs the folder of the data set"):
        Data(source="unreal4k")
    with pytest.raises(UserError, match="scenes need no path"):
        Data(path="somewhere")
