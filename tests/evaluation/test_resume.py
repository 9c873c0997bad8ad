"""An evaluation that was stopped, however it was, goes on and ends as if it had not been."""

import json
import os
import pickle
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import command
from helpers import miniature_sets as miniature

from urgt_jax.commands.eval import main
from urgt_jax.config_files import with_changes
from urgt_jax.data import sources
from urgt_jax.errors import UserError
from urgt_jax.evaluation import examples, metrics, report, resume
from urgt_jax.evaluation import run as evaluation
from urgt_jax.evaluation.candidates import RefinerCandidates, SavedPredictions
from urgt_jax.evaluation.examples import ExampleSheets
from urgt_jax.files import write_text
from urgt_jax.inference.refiner import Refiner
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import save_weights

ROOT = Path(__file__).parents[2]
SIZE = (40, 56)
ERRORS = (0.1, 0.3, 0.05, 0.4, 0.0, 0.2, 0.02)  # of each picture's predicted depth; 0: no map


class Killed(BaseException):
    """Ends the command as a signal does, which nothing handles."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Pictures with depth and intrinsics."""
    return miniature.measured(tmp_path_factory.mktemp("truth"), len(ERRORS), SIZE)


@pytest.fixture(scope="module")
def maps(truth, tmp_path_factory):
    """Predictions of all pictures but one, of which some have normals."""
    folder = tmp_path_factory.mktemp("maps")
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*SIZE, 3))
    for number, error in enumerate(ERRORS):
        depth = np.load(truth / f"view{number}_depth.npy")
        if error:
            np.save(folder / f"view{number}_depth.npy", depth * np.float32(1 + error))
        if error and number % 3:
            np.save(folder / f"view{number}_normal.npy", facing)
    return folder


@pytest.fixture(scope="module")
def words(truth, maps):
    """The options of an evaluation, but for where to."""
    return ("--predictions", maps, "--kind", "depth", "--data", "folder", truth,
            "--pages", 2)  # fmt: skip


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """What an evaluation makes that is left alone."""
    return call(*words, out=tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Scores are computed once, and two pictures on the sheets are enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "SHEET_IMAGES", 2)
        for owner, name in ((evaluation, "score"), (evaluation, "ground_truth"),
                            (metrics, "true_normals")):  # fmt: skip
            patch.setattr(owner, name, remembering(getattr(owner, name)))
        yield


def remembering(work):
    found = {}

    def remembers(*args):
        key = pickle.dumps(args)
        if key not in found:
            found[key] = work(*args)
        return found[key]

    return remembers


def call(*arguments, out):
    command.call(main, *arguments, "--out", out)
    return out


def files(folder):
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def same(one, other):
    """Whether two folders hold the same files with the same bytes."""
    one, other = files(one), files(other)
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def deadly(monkeypatch, owner, name, moment, after=False):
    """Makes a call, counted from 1, end the command before or after it does its work."""
    work, calls = getattr(owner, name), []

    def ends(*args, **options):
        calls.append(1)
        if len(calls) == moment and not after:
            raise Killed
        found = work(*args, **options)
        if len(calls) == moment:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, ends)


def killed(monkeypatch, *words, out, at):
    with monkeypatch.context() as patch:
        deadly(patch, *at)
        with pytest.raises(Killed):
            call(*words, out=out)
    return out


def counted(monkeypatch, owner, name="__call__"):
    """The first arguments, but self, of all calls from now on."""
    work, calls = getattr(owner, name), []

    def counts(self, first, *args, **options):
        calls.append(first)
        return work(self, first, *args, **options)

    monkeypatch.setattr(owner, name, counts)
    return calls


MOMENTS = {
    "first picture": (SavedPredictions, "__call__", 1),
    "a picture": (SavedPredictions, "__call__", 4),
    "a skipped picture": (SavedPredictions, "__call__", 5),
    "thumbnail": (report, "write_thumbnail", 4),
    "before layers": (report, "write_layers", 3),
    "after layers": (report, "write_layers", 3, True),
    "before layers are dropped": (report, "remove_layers", 1),
    "after layers are dropped": (report, "remove_layers", 1, True),
    "before a line": (resume.ScoreJournal, "add", 4),
    "after a line": (resume.ScoreJournal, "add", 4, True),
    "after the last line": (resume.ScoreJournal, "add", 6, True),
    "before pages": (report, "write_pages", 1),
    "after pages": (report, "write_pages", 1, True),
    "after the sheets": (ExampleSheets, "write", 1, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_evaluation_ends_as_one_left_alone(words, whole, tmp_path, monkeypatch, moment):
    out = killed(monkeypatch, *words, out=tmp_path / "out", at=MOMENTS[moment])
    same(call(*words, out=out), whole)
    assert not (out / "scored.jsonl").exists()


def test_it_may_be_killed_again_and_again(words, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for moment in (2, 4, 4, 4):  # the first two are scored each time, for the sheets
        killed(monkeypatch, *words, out=out, at=(resume.ScoreJournal, "add", moment))
    same(call(*words, out=out), whole)


def test_what_is_noted_is_not_scored_again_and_it_is_told(words, tmp_path, monkeypatch, capsys):
    out = killed(monkeypatch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 6))
    calls = counted(monkeypatch, SavedPredictions)
    capsys.readouterr()
    call(*words, out=out)
    said = capsys.readouterr().out
    assert f"resuming after 4 of 7 images: {out / 'scored.jsonl'}" in said
    # Two for the sheets, one that was skipped, and what was not reached.
    assert calls == ["view0", "view1", "view4", "view5", "view6"]
    assert "1 skipped" in said and "belong to no image" not in said


def test_a_finished_evaluation_measures_anew(words, tmp_path, monkeypatch, capsys):
    call(*words, out=tmp_path)
    calls = counted(monkeypatch, SavedPredictions)
    call(*words, out=tmp_path)
    assert len(calls) == len(ERRORS) and "resuming" not in capsys.readouterr().out


def test_what_was_skipped_is_tried_again(words, tmp_path, monkeypatch):
    """What was wrong may have been put right meanwhile."""
    read = sources.DataSetSource.read

    def fails(self, index, *args):
        if index == 1:
            raise UserError("not there now")
        return read(self, index, *args)

    with monkeypatch.context() as patch:
        patch.setattr(sources.DataSetSource, "read", fails)
        out = killed(patch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 3))
    found = json.loads((call(*words, out=out) / "metrics.json").read_text())
    assert set(found["skipped"]) == {"view4"} and found["images"] == 6


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_line_that_was_cut_off_is_dropped(words, whole, tmp_path, monkeypatch, capsys, cut):
    out = killed(monkeypatch, *words, out=tmp_path / "out", at=(resume.ScoreJournal, "add", 5))
    path = out / "scored.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    same(call(*words, out=out), whole)
    assert "resuming after 3 of 7 images" in capsys.readouterr().out


def test_lines_that_follow_a_cut_are_whole(words, tmp_path, monkeypatch):
    out = killed(monkeypatch, *words, out=tmp_path, at=(resume.ScoreJournal, "add", 4))
    path = out / "scored.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    killed(monkeypatch, *words, out=tmp_path, at=(resume.ScoreJournal, "add", 4))
    names = [json.loads(line).get("name") for line in path.read_text().splitlines()]
    assert names == [None, "view0", "view1", "view0", "view1", "view2"]


def _later(path):
    os.utime(path, ns=(1, 1))


OTHERS = {
    "eval.overlap": lambda truth, maps: ("--eval.overlap", "0.5"),
    "prior.kind": lambda truth, maps: ("--kind", "disparity"),
    "scale": lambda truth, maps: ("--scale", "3"),
    "data.max_depth": lambda truth, maps: ("--data.max_depth", "30"),
    "maps": lambda truth, maps: _later(maps / "view2_depth.npy") or (),
    "data.files": lambda truth, maps: _later(truth / "dataset.json") or (),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_was_scored_otherwise_is_not_used(
    words, truth, maps, tmp_path, monkeypatch, capsys, what
):
    out = killed(monkeypatch, *words, out=tmp_path / "out", at=(SavedPredictions, "__call__", 4))
    words = (*words, *OTHERS[what](truth, maps))
    calls = counted(monkeypatch, SavedPredictions)
    call(*words, out=out)
    assert (
        f"belongs to another evaluation (differs in {what}): starting over"
        in capsys.readouterr().out
    )
    assert len(calls) == len(ERRORS)
    same(out, call(*words, out=tmp_path / "whole"))


@pytest.mark.parametrize("text", ["", "mine\n", "[1]\n", '{"name": "view0"}\n', "\0" * 99])
def test_a_file_of_anything_else_is_not_used(words, whole, tmp_path, text, capsys):
    (tmp_path / "scored.jsonl").write_text(text)
    same(call(*words, out=tmp_path), whole)
    assert "belongs to another evaluation (" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_number_of_pictures_and_pages_may_change(words, tmp_path, monkeypatch, count):
    out = killed(monkeypatch, *words, out=tmp_path / "out", at=(SavedPredictions, "__call__", 6))
    words = (*words, "--eval.images", count, "--pages", 4 - count // 2)
    same(call(*words, out=out), call(*words, out=tmp_path / "whole"))


def test_files_that_are_gone_are_made_again(words, whole, tmp_path, monkeypatch):
    out = killed(monkeypatch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 6))
    for path in [
        *out.glob("report/*view2*/thumbnail.jpg"),
        *out.glob("report/*view3*/layers.json"),
    ]:
        path.unlink()
    same(call(*words, out=out), whole)


KILLS = """
import os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)  # as here: sums over tiles are rounded otherwise
from urgt_jax import files
from urgt_jax.commands.eval import main
from urgt_jax.evaluation import examples
examples.SHEET_IMAGES = 2
left, replace = [int(sys.argv.pop(1))], os.replace
def deadly(*paths):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
files.os.replace = deadly
main(sys.argv[1:])
"""


def test_a_sigkill_in_the_middle_of_a_file_leaves_no_trace(words, tmp_path):
    out, words = tmp_path / "out", (*words, "--eval.images", 4)
    told = [sys.executable, "-c", KILLS, "25", *map(str, words), "--out", str(out)]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert any(name.endswith(".tmp") for name in files(out)) and "scored.jsonl" in files(out)
    same(call(*words, out=out), call(*words, out=tmp_path / "whole"))


@pytest.fixture(scope="module")
def depth_alone(micro):
    """Half as much to compile."""
    return with_changes(micro, {"model.outputs": ("depth",), "eval.grid": (1, 1), "eval.images": 4})


@pytest.fixture(scope="module")
def params(depth_alone):
    shapes = jax.eval_shape(lambda: initial_params(depth_alone.model, 0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)


def test_a_refiner_s_evaluation_goes_on_too(depth_alone, params, tmp_path, monkeypatch, capsys):
    config = depth_alone
    save_weights(tmp_path / "w.safetensors", params, config)
    words = ("--weights", tmp_path / "w.safetensors")
    whole = call(*words, out=tmp_path / "whole")
    out = killed(monkeypatch, *words, out=tmp_path / "out", at=(RefinerCandidates, "__call__", 4))
    calls = counted(monkeypatch, RefinerCandidates)
    same(call(*words, out=out), whole)
    assert calls == ["test_00000", "test_00001", "test_00003"]
    assert "resuming after 3 of 4 images" in capsys.readouterr().out


def test_other_weights_are_another_origin(depth_alone, params):
    config, refiner = depth_alone, Refiner(params, depth_alone)
    told = resume.evaluation_identity(RefinerCandidates(refiner, config), config)
    more = replace(config, eval=replace(config.eval, images=9))
    assert resume.evaluation_identity(RefinerCandidates(refiner, more), more) == told
    leaves, tree = jax.tree.flatten(params)
    leaves[3] = leaves[3].copy()
    leaves[3].flat[0] += 1e-3
    refiner.params = jax.tree.unflatten(tree, leaves)
    other = resume.evaluation_identity(RefinerCandidates(refiner, config), config)
    assert [name for name in told if told[name] != other[name]] == ["weights"]


def test_an_origin_knows_where_data_lie_and_who_made_the_coarse_maps(
    micro, truth, tmp_path, monkeypatch
):
    priors = tmp_path / "all" / "priors.json"
    priors.parent.mkdir()
    data = replace(micro.data, source="folder", path=str(truth), priors_path=str(tmp_path))
    config = replace(micro, data=data)
    subject, found = RefinerCandidates(Refiner({}, config), config), []
    for text in ("one", "other", "one"):
        write_text(priors, text)
        found.append(resume.evaluation_identity(subject, config))
    assert found[0] == found[2] and found[0]["coarse maps"] != found[1]["coarse maps"]
    monkeypatch.chdir(truth.parent)
    near = replace(config, data=replace(data, path=truth.name))
    assert resume.evaluation_identity(subject, near) == found[0]


def test_scores_come_back_bit_for_bit(tmp_path):
    counts = np.zeros(180_001, np.int64)
    counts[[0, 5, 180_000]] = 1, 1 << 40, 3
    depth = {"abs_rel": 0.1 + 0.2, "see": float("nan"), "far": float("inf"), "rmse": -0.0}
    depth |= {"d3r": float(np.float32(0.1)), "ce": 5e-324}
    scores = {"one": {"depth": depth, "normal": {}}, "a": {"depth": {}, "normal": {}}}
    entry = resume.JournalEntry("\udcff <☃>\n", (3, 4), scores, {"one": resume.pack_counts(counts)})
    resume.ScoreJournal(tmp_path, {"of": [1]}).add(entry)
    (found,) = resume.ScoreJournal(tmp_path, {"of": [1]}).entries.values()
    assert repr(found) == repr(entry)  # NaN is not equal to itself
    np.testing.assert_array_equal(resume.unpack_counts(found.angle_counts["one"]), counts)


def test_what_cannot_be_written_is_one_line(words, whole, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    add = resume.ScoreJournal.add

    def full(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            add(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch:
        patch.setattr(resume.ScoreJournal, "add", full)
        with pytest.raises(UserError, match=r"cannot write .*scored\.jsonl: File too large"):
            call(*words, out=tmp_path)
    same(call(*words, out=tmp_path), whole)
