"""`urgt eval` on the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from etils.epath import Path
from helpers import command, miniature_sets
from PIL import Image

from urgt_jax.commands.eval import main
from urgt_jax.errors import UserError, exit_status
from urgt_jax.evaluation.comparison import read_results
from urgt_jax.evaluation.results import scores_folder
from urgt_jax.folder_lock import FolderLock
from urgt_jax.images.files import read_image
from urgt_jax.training.step import initial_params
from urgt_jax.weights.weight_file import SHIPPED, save_weights

call = partial(command.call, main)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two images with depth and intrinsics."""
    return miniature_sets.measured(Path(tmp_path_factory.mktemp("photos")), 2, (40, 56))


@pytest.fixture
def maps(photos, tmp_path):
    """The ground truth of the photos as predictions."""
    return miniature_sets.perfect_predictions(photos, tmp_path / "maps")


@pytest.fixture(scope="module")
def workdir(micro, tmp_path_factory):
    """A work directory with weights."""
    folder = Path(tmp_path_factory.mktemp("workdir"))
    save_weights(folder / "weights.safetensors", initial_params(micro.model, 0), micro)
    return folder


def test_eval_scores_a_refiner_and_its_baselines(workdir, capsys):
    call("--workdir", workdir)
    scores = json.loads((workdir / "metrics.json").read_text())
    assert scores["images"] == 2
    assert "ce" not in scores["coarse"]["depth"]
    for candidate in ("coarse", "smoothed", "refined"):
        assert 0 < scores[candidate]["depth"]["abs_rel"] < 2
        assert 0 < scores[candidate]["normal"]["mean"] < 90
    assert scores["refined"]["depth"]["ce"] > 0
    assert scores["candidates"] == ["coarse", "smoothed", "refined"]
    assert list(scores["per_image"][0]) == ["name", "coarse", "smoothed", "refined"]
    assert read_results(workdir).candidate == "refined"
    assert "boundary F1" in capsys.readouterr().out


def test_eval_writes_a_report_with_the_asked_number_of_pages(photos, maps, tmp_path):
    words = ("--predictions", maps, "--kind", "depth", "--data", "folder", photos)
    call(*words, "--pages", 1, "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "view0" in page and "view1" in page
    assert "http" not in page
    assert len(list((tmp_path / "report").glob("*/index.html"))) == 1
    for name in ("examples.png", "zooms.png"):
        assert read_image(tmp_path / name).shape[1] > 100


def test_eval_prints_the_protocol_and_the_data(photos, maps, capsys):
    call("--predictions", maps, "--kind", "depth", "--data", "folder", photos)
    printed = capsys.readouterr().out
    assert "mean over 2 images of folder\n" in printed
    assert "no alignment, 0.001 to 80 m, holes count as errors; at the size of the gr" in printed
    out = maps.with_name("maps_scores")
    assert f"wrote {out / 'metrics.json'}, {out / 'metrics.csv'}, {out / 'report.html'}" in printed


def test_eval_names_true_normals_and_converts_axes(photos, maps, tmp_path, capsys):
    measured = tmp_path / "measured"
    shutil.copytree(photos, measured)
    normal = np.full((40, 56, 3), [0.1, 0.2, -0.9], np.float32)
    for name in ("view0", "view1"):
        np.save(measured / f"{name}_normal.npy", normal)
        np.save(maps / f"{name}_normal.npy", normal * [1, -1, -1])  # y up, z backward
    words = ("--predictions", maps, "--kind", "depth", "--data", "folder", measured)
    call(*words, "--out", tmp_path / "wrong")
    printed = capsys.readouterr().out
    assert "warning: the normals of predicted are off by 1" in printed
    assert "--axes opengl or --axes directx" in printed
    assert "holes count as errors; normals against true normals; at the size" in printed
    call(*words, "--out", tmp_path / "right", "--axes", "opengl")
    scores = json.loads((tmp_path / "right" / "metrics.json").read_text())
    assert scores["predicted"]["normal"]["mean"] < 0.01
    assert scores["normals"] == "normals against true normals"
    assert "warning" not in capsys.readouterr().out


def test_eval_prints_what_it_skipped_and_ignored(photos, maps, tmp_path, capsys):
    (maps / "view0_depth.npy").rename(maps / "other_depth.npy")
    call("--predictions", maps, "--kind", "depth", "--data", "folder", photos, "--out", tmp_path)
    printed = capsys.readouterr().out
    assert f"skipped view0: {maps} holds no map of view0" in printed
    assert "mean over 1 images of folder, 1 skipped" in printed
    assert "1 prediction files belong to no image, such as other_depth.npy" in printed
    last = printed.splitlines()[-1]
    assert last == "1 of 2 images could not be scored; the first one is view0"


def test_eval_ends_with_status_1_if_images_were_skipped(photos, maps, tmp_path, capsys):
    words = ["--predictions", maps, "--kind", "depth", "--data", "folder", photos]
    words += ["--out", tmp_path / "out"]
    words = [str(word) for word in words]
    assert main(words) == 0
    (maps / "view1_depth.npy").write_bytes(b"damaged")
    assert main([*words, "--max-skipped", "1"]) == 1
    capsys.readouterr()
    with pytest.raises(UserError, match="stopped: 1 were skipped, .* allows 0.*view1"):
        main([*words, "--max-skipped", "0"])


@pytest.mark.parametrize(
    "scale,message",
    [
        (1000, "warning: the depth of predicted is .* probably not in metres but in millimetres"),
        (0.001, "warning: the depth of predicted is almost 0: it is probably not in metres"),
    ],
)
def test_eval_names_predictions_in_another_unit(photos, maps, tmp_path, capsys, scale, message):
    for file in maps.iterdir():
        np.save(file, np.load(file) * np.float32(scale))
    call("--predictions", maps, "--kind", "depth", "--data", "folder", photos, "--out", tmp_path)
    assert re.search(message, capsys.readouterr().out)


def test_eval_ends_with_status_1_if_no_image_can_be_scored(photos, maps, tmp_path, capsys):
    for file in maps.iterdir():
        file.write_bytes(b"")
    words = ("--predictions", maps, "--kind", "depth", "--data", "folder", photos)
    assert exit_status(partial(call, *words, "--out", tmp_path / "out")) == 1
    assert "none of 2 images could be scored" in capsys.readouterr().err


def test_eval_passes_the_scale_of_png_files_on(photos, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for file in photos.glob("*_depth.npy"):
        steps = np.round(np.load(file) * 500).astype(np.uint16)
        Image.fromarray(steps).save(maps / file.with_suffix(".png").name)
    words = ("--predictions", maps, "--kind", "depth", "--data", "folder", photos)
    call(*words, "--scale", 500, "--out", tmp_path / "out")
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert scores["predicted"]["depth"]["abs_rel"] < 1e-3


def test_eval_compares_two_folders_of_results(photos, maps, tmp_path, capsys):
    words = ("--kind", "depth", "--data", "folder", photos, "--pages", 1)
    call("--predictions", maps, *words, "--out", tmp_path / "second")
    for file in maps.iterdir():
        np.save(file, 1.1 * np.load(file))
    call("--predictions", maps, *words, "--out", tmp_path / "first")
    capsys.readouterr()
    call("--compare", tmp_path / "first", tmp_path / "second")
    printed = capsys.readouterr().out
    page = tmp_path / "second/compared_with_first/compare.html"
    assert f"wrote {page}" in printed and page.is_file()
    line = next(line for line in printed.splitlines() if line.startswith("AbsRel"))
    assert line.split()[2:5] == ["0.1000", "0.0000", "-0.1000"] and line.endswith("100 %")
    assert "2 images that both have scored; depth in metres" in printed


def test_scores_folder_is_next_to_what_is_scored(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    assert scores_folder(file) == tmp_path / "w_scores"
    assert scores_folder(tmp_path / "maps.v2") == tmp_path / "maps.v2_scores"
    assert str(scores_folder(SHIPPED / "small.safetensors")) == "small_scores"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--predictions MAPS --data folder PHOTOS", "--predictions needs --kind"),
        ("--predictions nowhere --kind depth", "no folder of predictions at nowhere"),
        (
            "--predictions MAPS --kind disparity --eval.align none --data folder PHOTOS",
            "cannot be scored without alignment",
        ),
        ("--predictions MAPS --kind depth --data foldr PHOTOS", "foldr"),
        ("--predictions MAPS --kind depth --data folder", "needs the folder"),
        ("--predictions MAPS --workdir x", "not allowed with"),
        ("--compare MAPS MAPS", "has no metrics.json"),
        ("--compare MAPS MAPS --eval.images 2", "can only be combined with --out"),
        ("--data folder PHOTOS", "one of the arguments .* is required"),
        ("--weights x --kind depth", "can only be used with --predictions"),
        ("--weights x --axes opengl", "can only be used with --predictions"),
        ("--predictions MAPS --kind depth --degrade weak", "cannot be used with --predictions"),
        ("--predictions MAPS --kind depth --eval.gird 4", "unknown option --eval.gird"),
    ],
)
def test_eval_rejects_wrong_options(photos, maps, words, message):
    replacements = {"MAPS": maps, "PHOTOS": photos}
    arguments = [replacements.get(word, word) for word in words.split()]
    with pytest.raises(UserError, match=message):
        call(*arguments)


def test_eval_rejects_fields_of_the_trained_model(workdir):
    with pytest.raises(UserError, match="--model fields are fixed by the trained weights"):
        call("--workdir", workdir, "--model.depth", 3)


def test_eval_rejects_a_data_set_without_priors(photos, workdir):
    with pytest.raises(UserError, match="no coarse maps in .* run urgt priors"):
        call("--workdir", workdir, "--data", "folder", photos)


def test_eval_help_lists_options_examples_and_fields(capsys):
    with pytest.raises(SystemExit):
        call("--help")
    printed = capsys.readouterr().out
    for text in ("usage: urgt eval (--workdir", "--pages N", "examples:", "--eval.images"):
        assert text in printed


@pytest.mark.slow
def test_eval_writes_the_same_bits_on_one_device_and_eight(tmp_path):
    maps = tmp_path / "maps"
    for folder in (maps, tmp_path / "photos"):
        folder.mkdir()
    photos = miniature_sets.measured(tmp_path / "photos", 2, (600, 1000))  # four tiles
    rng = np.random.default_rng(0)
    for name in ("view0", "view1"):
        depth = np.load(photos / f"{name}_depth.npy")
        noisy = depth * np.exp(rng.normal(0.02, 0.05, depth.shape))
        np.save(maps / f"{name}_depth.npy", noisy.astype(np.float32))
        normal = rng.normal((0, 0, -1), 0.3, (*depth.shape, 3)).astype(np.float32)
        np.save(maps / f"{name}_normal.npy", normal)
    words = ["--predictions", maps, "--kind", "depth", "--data", "folder", photos]
    words += ["--eval.boundaries", "--eval.edges", "--pages", "0"]
    results = {}
    for devices in (1, 8):
        out = tmp_path / f"on{devices}"
        subprocess.run(
            [sys.executable, "-m", "urgt_jax", "eval", *map(str, words), "--out", str(out)],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            check=True,
        )
        assert f"{devices} x cpu" in (out / "provenance.json").read_text()
        results[devices] = [(out / name).read_bytes() for name in ("metrics.json", "metrics.csv")]
    assert results[1] == results[8]
    scores = json.loads(results[1][0])["predicted"]
    measured = {"ord", "d3r_stretched", "mae", "boundary_f1_radius3", "edge_accuracy", "drift"}
    assert all(np.isfinite(scores["depth"][name]) for name in measured)
    assert scores["pooled"]["mean"] > 0 and scores["depth"]["agreement"] > 0


def test_eval_does_not_write_into_a_folder_that_is_in_use(photos, maps, tmp_path):
    options = ["--predictions", maps, "--kind", "depth", "--data", "folder", photos]
    lock = FolderLock(tmp_path / "out", "--out")
    with pytest.raises(UserError, match="out is in use by process"):
        call(*options, "--out", tmp_path / "out")
    lock.release()
    assert not (tmp_path / "out" / "metrics.json").exists()
