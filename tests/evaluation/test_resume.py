"""An interrupted evaluation resumes, and ends with the files of an uninterrupted one."""

import json
import os
import pathlib
import pickle
import re
import resource
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from etils.epath import Path
from helpers import command, miniature_sets
from helpers.mutations import mutations

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
ERRORS = (0.1, 0.3, 0.05, 0.4, 0.0, 0.2, 0.02)  # of each image's predicted depth; 0: no map
TYPICAL = "view5"  # with which the report begins: it is scored again at the end


class Killed(BaseException):
    """Ends the command as a signal does: nothing handles it."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images with depth and intrinsics."""
    return miniature_sets.measured(Path(tmp_path_factory.mktemp("photos")), len(ERRORS), SIZE)


@pytest.fixture(scope="module")
def maps(photos, tmp_path_factory):
    """Predictions of all images but one; some have normals."""
    folder = Path(tmp_path_factory.mktemp("maps"))
    facing = np.broadcast_to(np.float32([0, 0, -1]), (*SIZE, 3))
    for number, error in enumerate(ERRORS):
        depth = np.load(photos / f"view{number}_depth.npy")
        if error:
            np.save(folder / f"view{number}_depth.npy", depth * np.float32(1 + error))
        if error and number % 3:
            np.save(folder / f"view{number}_normal.npy", facing)
    return folder


@pytest.fixture(scope="module")
def words(photos, maps):
    """The options of an evaluation without its output folder."""
    return ("--predictions", maps, "--kind", "depth", "--data", "folder", photos,
            "--pages", 2)  # fmt: skip


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The files of an uninterrupted evaluation."""
    return call(*words, out=Path(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Compute each score once only, and put two images on the sheets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "SHEET_IMAGES", 2)
        for owner, name in ((evaluation, "score"), (evaluation, "ground_truth"),
                            (metrics, "true_normals")):  # fmt: skip
            patch.setattr(owner, name, remembering(getattr(owner, name)))
        yield


def remembering(function):
    """The function with its results kept by the bytes of its arguments."""
    results = {}

    def remembers(*args):
        key = pickle.dumps(args)
        if key not in results:
            results[key] = function(*args)
        return results[key]

    return remembers


def call(*arguments, out):
    command.call(main, *arguments, "--out", out)
    return out


def files(folder):
    """The bytes of all files by their paths, without what says when and how they were made."""
    contents = {}
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and path.name != "provenance.json":
            content = re.sub(rb'(?s)<dl id="provenance">.*?</dl>', b"", path.read_bytes())
            contents[str(path.relative_to(folder))] = content
    return contents


def assert_same_files(folder, other_folder):
    """The folders hold the same files with the same bytes."""
    one = files(folder)
    other = files(other_folder)
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def kill_at_call(monkeypatch, owner, name, number, after=False):
    """Let a call, counted from 1, end the command before or after it does its work."""
    function = getattr(owner, name)
    calls = []

    def ends(*args, **options):
        calls.append(name)
        if len(calls) == number and not after:
            raise Killed
        result = function(*args, **options)
        if len(calls) == number:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, ends)


def call_and_kill(monkeypatch, *words, out, at):
    """Run the command until it is killed at a call; return the output folder."""
    with monkeypatch.context() as patch:
        kill_at_call(patch, *at)
        with pytest.raises(Killed):
            call(*words, out=out)
    return out


def record_names(monkeypatch, source):
    """The names of the images whose candidates the source provides from now on."""
    function = source.__call__
    names = []

    def records(self, name, sample):
        names.append(name)
        return function(self, name, sample)

    monkeypatch.setattr(source, "__call__", records)
    return names


MOMENTS = {
    "first image": (SavedPredictions, "__call__", 1),
    "an image": (SavedPredictions, "__call__", 4),
    "a skipped image": (SavedPredictions, "__call__", 5),
    "thumbnail": (report, "write_thumbnail", 4),
    "before layers": (report, "write_layers", 3),
    "after layers": (report, "write_layers", 3, True),
    "before layers are dropped": (report, "remove_layers", 1),
    "after layers are dropped": (report, "remove_layers", 1, True),
    "before an entry": (resume.ScoreJournal, "add", 4),
    "after an entry": (resume.ScoreJournal, "add", 4, True),
    "after the last entry": (resume.ScoreJournal, "add", 6, True),
    "before pages": (report, "write_pages", 1),
    "after pages": (report, "write_pages", 1, True),
    "after the sheets": (ExampleSheets, "write", 1, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_evaluation_killed_at_any_moment_ends_with_the_same_files(
    words, whole, tmp_path, monkeypatch, moment
):
    out = call_and_kill(monkeypatch, *words, out=tmp_path / "out", at=MOMENTS[moment])
    assert_same_files(call(*words, out=out), whole)
    assert not (out / "scored.jsonl").exists()


def test_evaluation_may_be_killed_repeatedly(words, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for moment in (2, 4, 4, 4):  # the first two are scored each time, for the sheets
        call_and_kill(monkeypatch, *words, out=out, at=(resume.ScoreJournal, "add", moment))
    assert_same_files(call(*words, out=out), whole)


def test_evaluation_does_not_score_journal_entries_again(words, tmp_path, monkeypatch, capsys):
    out = call_and_kill(monkeypatch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 6))
    calls = record_names(monkeypatch, SavedPredictions)
    capsys.readouterr()
    call(*words, out=out)
    printed = capsys.readouterr().out
    assert f"resuming after 4 of 7 images: {out / 'scored.jsonl'}" in printed
    # Two for the sheets, one that was skipped, those that were not reached, and the typical one.
    assert calls == ["view0", "view1", "view4", "view5", "view6", TYPICAL]
    assert "1 skipped" in printed and "belong to no image" not in printed


def test_evaluation_starts_over_after_it_finished(words, tmp_path, monkeypatch, capsys):
    call(*words, out=tmp_path)
    calls = record_names(monkeypatch, SavedPredictions)
    call(*words, out=tmp_path)
    assert calls[len(ERRORS) :] == [TYPICAL] and "resuming" not in capsys.readouterr().out


def test_evaluation_retries_skipped_images(words, tmp_path, monkeypatch):
    """The cause may have been fixed meanwhile."""
    read = sources.DataSetSource.read

    def fails(self, index, *args):
        if index == 1:
            raise UserError("not there now")
        return read(self, index, *args)

    with monkeypatch.context() as patch:
        patch.setattr(sources.DataSetSource, "read", fails)
        out = call_and_kill(patch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 3))
    scores = json.loads((call(*words, out=out) / "metrics.json").read_text())
    assert set(scores["skipped"]) == {"view4"} and scores["images"] == 6


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_journal_drops_a_line_that_was_cut_off(words, whole, tmp_path, monkeypatch, capsys, cut):
    out = call_and_kill(
        monkeypatch, *words, out=tmp_path / "out", at=(resume.ScoreJournal, "add", 5)
    )
    path = out / "scored.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert_same_files(call(*words, out=out), whole)
    assert "resuming after 3 of 7 images" in capsys.readouterr().out


def test_journal_replaces_a_line_that_was_cut_off(words, tmp_path, monkeypatch):
    out = call_and_kill(monkeypatch, *words, out=tmp_path, at=(resume.ScoreJournal, "add", 4))
    path = out / "scored.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    call_and_kill(monkeypatch, *words, out=tmp_path, at=(resume.ScoreJournal, "add", 4))
    names = [json.loads(line).get("name") for line in path.read_text().splitlines()]
    assert names == [None, "view0", "view1", "view0", "view1", "view2"]


CHANGED_OPTIONS = {
    "eval.overlap": ("--eval.overlap", "0.5"),
    "prior.kind": ("--kind", "disparity"),
    "scale": ("--scale", "3"),
    "data.max_depth": ("--data.max_depth", "30"),
    "maps": (),  # the time of a prediction changes
    "data.files": (),  # the time of a file of the data set changes
}


@pytest.mark.parametrize("what", CHANGED_OPTIONS)
def test_journal_of_another_evaluation_is_not_used(
    words, photos, maps, tmp_path, monkeypatch, capsys, what
):
    out = call_and_kill(
        monkeypatch, *words, out=tmp_path / "out", at=(SavedPredictions, "__call__", 4)
    )
    if what == "maps":
        os.utime(maps / "view2_depth.npy", ns=(1, 1))
    if what == "data.files":
        os.utime(photos / "dataset.json", ns=(1, 1))
    words = (*words, *CHANGED_OPTIONS[what])
    calls = record_names(monkeypatch, SavedPredictions)
    call(*words, out=out)
    printed = capsys.readouterr().out
    assert f"belongs to another evaluation (differs in {what}): starting over" in printed
    assert len(calls) == len(ERRORS) + 1  # and a typical one again
    assert_same_files(out, call(*words, out=tmp_path / "whole"))


@pytest.mark.parametrize("text", ["", "mine\n", "[1]\n", '{"name": "view0"}\n', "\0" * 99])
def test_journal_that_is_another_file_is_not_used(words, whole, tmp_path, text, capsys):
    (tmp_path / "scored.jsonl").write_text(text)
    assert_same_files(call(*words, out=tmp_path), whole)
    assert "belongs to another evaluation (" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 3, 5])
def test_evaluation_may_resume_with_other_numbers_of_images_and_pages(
    words, tmp_path, monkeypatch, count
):
    out = call_and_kill(
        monkeypatch, *words, out=tmp_path / "out", at=(SavedPredictions, "__call__", 6)
    )
    words = (*words, "--eval.images", count, "--pages", 4 - count // 2)
    assert_same_files(call(*words, out=out), call(*words, out=tmp_path / "whole"))


def test_evaluation_rewrites_report_files_that_are_gone(words, whole, tmp_path, monkeypatch):
    out = call_and_kill(monkeypatch, *words, out=tmp_path, at=(SavedPredictions, "__call__", 6))
    for path in [
        *out.glob("report/*view2*/thumbnail.jpg"),
        *out.glob("report/*view3*/layers.json"),
    ]:
        path.unlink()
    assert_same_files(call(*words, out=out), whole)


KILLS = """
import os, signal, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)  # as here: sums over tiles are rounded otherwise
from urgt_jax import files
from urgt_jax.commands.eval import main
from urgt_jax.evaluation import examples
examples.SHEET_IMAGES = 2
left = [int(sys.argv.pop(1))]
replace = os.replace
def kill_or_replace(*paths):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
files.os.replace = kill_or_replace
main(sys.argv[1:])
"""


def test_evaluation_survives_sigkill_during_a_write(words, tmp_path):
    out = tmp_path / "out"
    words = (*words, "--eval.images", 4)
    arguments = [sys.executable, "-c", KILLS, "25", *map(str, words), "--out", str(out)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    assert any(name.endswith(".tmp") for name in files(out)) and "scored.jsonl" in files(out)
    assert_same_files(call(*words, out=out), call(*words, out=tmp_path / "whole"))


@pytest.fixture(scope="module")
def depth_alone(micro):
    """A model without normals, which takes half the time to compile."""
    return with_changes(micro, {"model.outputs": ("depth",), "eval.grid": (1, 1), "eval.images": 4})


@pytest.fixture(scope="module")
def params(depth_alone):
    shapes = jax.eval_shape(lambda: initial_params(depth_alone.model, 0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)


@pytest.mark.slow
def test_evaluation_of_a_refiner_resumes(depth_alone, params, tmp_path, monkeypatch, capsys):
    config = depth_alone
    save_weights(tmp_path / "w.safetensors", params, config)
    words = ("--weights", tmp_path / "w.safetensors")
    whole = call(*words, out=tmp_path / "whole")
    out = call_and_kill(
        monkeypatch, *words, out=tmp_path / "out", at=(RefinerCandidates, "__call__", 4)
    )
    calls = record_names(monkeypatch, RefinerCandidates)
    assert_same_files(call(*words, out=out), whole)
    assert calls == ["test_00000", "test_00001", "test_00003"]
    assert "resuming after 3 of 4 images" in capsys.readouterr().out


def test_identity_covers_the_weights_but_not_the_number_of_images(depth_alone, params):
    config = depth_alone
    refiner = Refiner(params, config)
    identity = resume.evaluation_identity(RefinerCandidates(refiner, config), config)
    more = replace(config, eval=replace(config.eval, images=9))
    assert resume.evaluation_identity(RefinerCandidates(refiner, more), more) == identity
    leaves, tree = jax.tree.flatten(params)
    leaves[3] = leaves[3].copy()
    leaves[3].flat[0] += 1e-3
    refiner.params = jax.tree.unflatten(tree, leaves)
    other = resume.evaluation_identity(RefinerCandidates(refiner, config), config)
    assert [name for name in identity if identity[name] != other[name]] == ["weights"]


def test_identity_covers_the_data_folder_and_the_origin_of_priors(
    micro, photos, tmp_path, monkeypatch
):
    origin = tmp_path / "all" / "priors.json"
    origin.parent.mkdir()
    data = replace(micro.data, source="folder", path=str(photos), priors_path=str(tmp_path))
    config = replace(micro, data=data)
    source = RefinerCandidates(Refiner({}, config), config)
    identities = []
    for text in ("one", "other", "one"):
        write_text(origin, text)
        identities.append(resume.evaluation_identity(source, config))
    assert identities[0] == identities[2]
    assert identities[0]["coarse maps"] != identities[1]["coarse maps"]
    monkeypatch.chdir(photos.parent)
    relative = replace(config, data=replace(data, path=photos.name))
    assert resume.evaluation_identity(source, relative) == identities[0]


def test_journal_keeps_scores_to_the_bit(tmp_path):
    counts = np.zeros(180_001, np.int64)
    counts[[0, 5, 180_000]] = 1, 1 << 40, 3
    depth = {"abs_rel": 0.1 + 0.2, "see": float("nan"), "far": float("inf"), "rmse": -0.0}
    depth |= {"d3r": float(np.float32(0.1)), "ce": 5e-324}
    scores = {"one": {"depth": depth, "normal": {}}, "a": {"depth": {}, "normal": {}}}
    packed = {"one": resume.pack_counts(counts)}
    entry = resume.JournalEntry("\udcff <☃>\n", (3, 4), scores, packed)
    resume.ScoreJournal(tmp_path, {"of": [1]}).add(entry)
    (read,) = resume.ScoreJournal(tmp_path, {"of": [1]}).entries.values()
    assert repr(read) == repr(entry)  # NaN is not equal to itself
    np.testing.assert_array_equal(resume.unpack_counts(read.angle_counts["one"]), counts)


def test_no_change_of_a_journal_goes_unnoticed(tmp_path, capsys):
    scores = {"predicted": {"depth": {"abs_rel": 0.125, "rmse": 2.5}, "normal": {}}}
    counts = {"predicted": resume.pack_counts(np.arange(180))}
    entries = {}
    journal = resume.ScoreJournal(tmp_path, {"program": "this"})
    for i in range(4):
        entries[f"image{i}"] = resume.JournalEntry(f"image{i}", (40, 56), scores, counts)
        journal.add(entries[f"image{i}"])
    content = journal.path.read_bytes()
    for what, changed in mutations(content, 200):
        journal.path.write_bytes(changed)
        read = resume.ScoreJournal(tmp_path, {"program": "this"}).entries
        assert all(entries[name] == entry for name, entry in read.items()), what
        cut = content.startswith(changed)
        assert len(read) == 4 or cut or "damaged" in capsys.readouterr().out, what


def test_journal_that_cannot_be_written_is_a_user_error(words, whole, tmp_path, monkeypatch):
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
    assert_same_files(call(*words, out=tmp_path), whole)
