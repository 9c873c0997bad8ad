"""Scoring as a user does it: runs, weight files, anybody's maps, and the paper's tables."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from helpers import miniature_sets as miniature
from PIL import Image

from urgt_jax import config_files
from urgt_jax.commands.eval import main
from urgt_jax.commands.fields import override
from urgt_jax.config_files import load_config
from urgt_jax.errors import UserError
from urgt_jax.evaluation.paper_tables import lines, read
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import save_weights

SIZE = (40, 56)


call = partial(command.call, main)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A folder of two pictures with depth and intrinsics, as docs/datasets.md has it."""
    return miniature.measured(tmp_path_factory.mktemp("truth"), 2, SIZE)


@pytest.fixture
def maps(truth, tmp_path):
    """The truth itself as predictions."""
    folder = tmp_path / "maps"
    folder.mkdir()
    for file in truth.glob("*_depth.npy"):
        shutil.copy(file, folder)
    return folder


def _scores(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_truth_scores_perfectly_as_metres(truth, maps, capsys):
    call("--predictions", maps, "--kind", "depth", "--data", "folder", truth)
    found = _scores(maps.with_name("maps_scores"))
    assert found["pictures"] == 2 and found["skipped"] == {}
    depth = found["predicted"]["depth"]
    assert depth["abs_rel"] == depth["rmse"] == 0 and depth["delta1"] == 1
    assert depth["boundary_f1"] == pytest.approx(1) and depth["seam"] == 0
    assert [row["name"] for row in found["per_picture"]] == ["view0", "view1"]
    said = capsys.readouterr().out
    assert "depth in metres, no alignment, 0.001 to 80 m" in said and "folder" in said
    assert "at the truth's size, 40 x 56 pixels" in said
    assert (maps.with_name("maps_scores") / "report.html").is_file()


def test_disparity_of_any_scale_scores_perfectly_once_aligned(truth, maps, tmp_path):
    for file in maps.iterdir():
        depth = np.load(file)
        disparity = np.where(depth > 0, 3 / np.maximum(depth, 0.1) + 0.5, 0.5)
        np.save(file, disparity.astype(np.float32))
    out = tmp_path / "out"
    call("--predictions", maps, "--kind", "disparity", "--data", "folder", truth, "--out", out)
    assert _scores(out)["predicted"]["depth"]["abs_rel"] < 1e-5
    assert "least squares of disparity" in _scores(out)["protocol"]


def test_png_of_16_bits_is_read_at_its_scale(truth, tmp_path):
    maps, out = tmp_path / "maps", tmp_path / "out"
    maps.mkdir()
    for file in truth.glob("*_depth.npy"):
        steps = np.round(np.load(file) * 500).astype(np.uint16)
        Image.fromarray(steps).save(maps / file.with_suffix(".png").name)
    told = ("--predictions", maps, "--kind", "depth", "--data", "folder", truth, "--out", out)
    call(*told, "--scale", 500)
    assert _scores(out)["predicted"]["depth"]["abs_rel"] < 1e-3
    call(*told)  # PatchFusion's 256 steps a metre: all is almost twice as far
    wrong = _scores(out)["predicted"]["depth"]["abs_rel"]
    assert wrong == pytest.approx(500 / 256 - 1, abs=0.01)


def test_normals_are_scored_where_there_are_some(truth, maps, tmp_path):
    normal = np.zeros((*SIZE, 3), np.float32)
    normal[..., 2] = -2.0  # any length will do
    np.save(maps / "view1_normal.npy", normal)
    call("--predictions", maps, "--kind", "depth", "--data", "folder", truth, "--out", tmp_path)
    found = _scores(tmp_path)
    (first, second) = found["per_picture"]
    assert first["predicted"]["normal"] == {} and 0 < second["predicted"]["normal"]["mean"] < 90
    assert found["predicted"]["pooled"]["mean"] == second["predicted"]["normal"]["mean"]
    assert found["predicted"]["depth"]["agreement"] > 0


def test_missing_and_extra_maps_are_told_and_the_rest_is_scored(truth, maps, tmp_path, capsys):
    (maps / "view0_depth.npy").rename(maps / "other_depth.npy")
    call("--predictions", maps, "--kind", "depth", "--data", "folder", truth, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "skipped view0" in said and "neither view0_depth.npy nor .png" in said
    assert "1 skipped" in said and "1 files in" in said and "other_depth.npy" in said
    assert _scores(tmp_path)["pictures"] == 1


def _spoil(kind: str, maps) -> None:
    for file in maps.glob("*.npy"):
        values = np.load(file)
        if kind == "truncated":
            file.write_bytes(file.read_bytes()[:200])
        elif kind == "empty":
            file.write_bytes(b"")
        elif kind == "shape":
            np.save(file, values[0])
        elif kind == "dtype":
            np.save(file, values.astype(np.int16))
        elif kind == "other picture":
            np.save(file, values.T)
        elif kind == "behind":
            np.save(file, -values)


@pytest.mark.parametrize(
    "kind", ["truncated", "empty", "shape", "dtype", "other picture", "behind"]
)
def test_maps_that_cannot_be_read_are_skipped_and_named(truth, maps, tmp_path, kind, capsys):
    _spoil(kind, maps)
    told = ("--predictions", maps, "--kind", "depth", "--data", "folder", truth, "--out", tmp_path)
    with pytest.raises(UserError, match="none of 2 pictures could be scored"):
        call(*told)
    assert "skipped view0: " in capsys.readouterr().out
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    "arguments,told",
    [
        (("--predictions", "MAPS", "--data", "folder", "TRUTH"), "needs --kind"),
        (("--predictions", "nowhere", "--kind", "depth"), "no folder of predictions at nowhere"),
        (("--predictions", "MAPS", "--kind", "disparity", "--eval.align", "none", "--data",
          "folder", "TRUTH"), "unless it is aligned"),
        (("--predictions", "MAPS", "--kind", "depth", "--data", "foldr", "TRUTH"), "foldr"),
        (("--predictions", "MAPS", "--kind", "depth", "--data", "folder"), "needs the folder|need"),
        (("--predictions", "MAPS", "--workdir", "x"), "not allowed with"),
        (("--data", "folder", "TRUTH"), "one of the arguments"),
        (("--weights", "x", "--kind", "depth"), "go with --predictions"),
        (
            ("--predictions", "MAPS", "--kind", "depth", "--degrade", "weak"),
            "--degrade is for coarse maps that a refiner is given",
        ),
        (("--predictions", "MAPS", "--kind", "depth", "--eval.gird", "4"), "unknown option"),
    ],
)  # fmt: skip
def test_wrong_options_are_told(truth, maps, arguments, told):
    words = [{"MAPS": maps, "TRUTH": truth}.get(word, word) for word in arguments]
    with pytest.raises(UserError, match=told):
        call(*words)


def test_a_set_without_priors_is_told_before_anything_else(truth, micro, tmp_path):
    params = initial_params(micro.model, 0)
    save_weights(tmp_path / "w.safetensors", params, micro)
    with pytest.raises(UserError, match="no priors .*: run urgt priors"):
        call("--weights", tmp_path / "w.safetensors", "--data", "folder", truth)


def _folder_of_rows(where, base, rows: dict[str, str]):
    where.mkdir()
    for name, body in rows.items():
        (where / f"{name}.py").write_text(
            f"from urgt_jax.evaluation.paper_tables import TableRow\nBASE = {str(base)!r}\n{body}\n"
        )
    return where


@pytest.fixture
def base(micro, tmp_path):
    return command.config_file(micro, tmp_path)


ROWS = {
    "plain": 'rows = (Row("Ways", "plain", {"abs_rel": 0.1}),'
    ' Row("Ways", "prior", side="coarse", order=2))',
    "overlap": 'rows = (Row("Ways", "overlap", {"abs_rel": 0.3}, order=1),)\n'
    'trained = "plain"\nevaluation = {"eval.overlap": 0.5}',
}


def _made(runs, name: str, abs_rel: float) -> None:
    scores = {"depth": {"abs_rel": abs_rel, "boundary_f1": None}, "normal": {}}
    summary = {"data": "some data", "protocol": "some way", "refined": scores, "coarse": scores}
    (runs / name).mkdir(parents=True)
    (runs / name / "metrics.json").write_text(json.dumps(summary))


def test_tables_collect_what_was_scored_with_mean_and_deviation(base, tmp_path, capsys):
    folder, runs = _folder_of_rows(tmp_path / "rows", base, ROWS), tmp_path / "runs"
    _made(runs, "plain-seed0", 0.2)
    _made(runs, "plain-seed1", 0.4)
    call("--table", folder, "--runs", runs, "--seeds", 0, 1, "--collect")
    text = (runs / "tables.md").read_text()
    assert "| plain | 0.3000 ± 0.1414 (0.1000) |" in text
    assert "| overlap | – (0.3000) |" in text and "| prior | 0.3000 ± 0.1414 |" in text
    assert text.index("| plain") < text.index("| overlap") < text.index("| prior")
    page = (runs / "tables.html").read_text()
    assert page.count("<circle") == 2 + 2 + 2 and "http" not in page
    assert "some data; some way" in text and "swapped" in text


def test_a_table_that_the_paper_has_not_shows_what_was_measured(base, tmp_path):
    rows = {"own": 'rows = (Row("Of our own", "ours"),)'}
    folder, runs = _folder_of_rows(tmp_path / "rows", base, rows), tmp_path / "runs"
    _made(runs, "own-seed0", 0.25)
    call("--table", folder, "--runs", runs, "--collect")
    assert "|  | AbsRel ↓ |" in (runs / "tables.md").read_text()


@pytest.mark.parametrize(
    "rows,told",
    [
        ({}, "holds no configuration with `rows`"),
        ({"a": 'rows = ()\ntrained = "b"'}, "no configuration b"),
        ({"a": "rows = ("}, "a.py does not run: SyntaxError"),
    ],
)
def test_folders_of_rows_that_are_refused(base, tmp_path, rows, told):
    folder = _folder_of_rows(tmp_path / "rows", base, rows)
    with pytest.raises(UserError, match=told):
        call("--table", folder, "--runs", tmp_path / "runs", "--collect")


def test_the_paper_s_rows_are_configurations_and_stand_in_its_tables():
    root = Path(__file__).parents[2]
    runs, base = read(root / "configs/ablations")
    assert base == root / "configs/u4k.py"
    for run in runs:
        options = config_files.command_line_options(run.changes | run.evaluation)
        own = load_config(root / f"configs/ablations/{run.name}.py")
        start = load_config(root / f"configs/ablations/{run.trained}.py")
        assert override(start if run.evaluation else load_config(base), options) == own
    found = lines(runs, {run.name: [] for run in runs}, [])
    assert set(found) == {
        "Depth on UnrealStereo4K", "Normals on UnrealStereo4K", "GridMix", "Positions",
        "Cross-patch attention", "Loss terms",
    }  # fmt: skip
    for rows in found.values():  # as the paper's text tells, whose table has two columns swapped
        for line in rows:
            root_mean, mean = line.cells["normal_rmse"].paper, line.cells["mean"].paper
            assert mean is None or root_mean > mean


@pytest.mark.slow
def test_a_table_trains_and_scores_what_is_missing(base, tmp_path, capsys):
    folder, runs = _folder_of_rows(tmp_path / "rows", base, ROWS), tmp_path / "runs"
    told = ("--table", folder, "--runs", runs, "--optim.steps", 2)
    call(*told)
    first = capsys.readouterr().out
    assert first.count("$ urgt train") == 1 and first.count("$ urgt eval") == 2
    assert (runs / "plain-seed0/weights.safetensors").is_file()
    call(*told)
    assert "$ urgt train" not in capsys.readouterr().out
