"""Whole evaluations of saved predictions."""

import csv
import json
import sys

import numpy as np
import pytest
from helpers.public_sets import WRITERS
from PIL import Image

from urgt_jax.config import Config, Data, Prior
from urgt_jax.errors import NegativeResult, UserError
from urgt_jax.evaluation.candidates import SavedPredictions
from urgt_jax.evaluation.run import Evaluation, run_evaluation


def evaluate(maps, photos, out, kind="depth", scale=256.0) -> Evaluation:
    """Score predictions of the photos."""
    config = Config(data=Data(source="folder", path=str(photos)), prior=Prior(kind=kind))
    return run_evaluation(SavedPredictions(maps, scale), config, out)


def scores_of(maps, photos, out, **options) -> dict:
    """The contents of metrics.json."""
    evaluate(maps, photos, out, **options)
    return json.loads((out / "metrics.json").read_text())


def test_run_evaluation_scores_the_ground_truth_perfectly(photos, maps, tmp_path):
    scores = scores_of(maps, photos, tmp_path / "out")
    assert scores["images"] == 2
    assert scores["skipped"] == {}
    depth = scores["predicted"]["depth"]
    assert depth["abs_rel"] == depth["rmse"] == depth["seam"] == 0
    assert depth["delta1"] == 1
    assert depth["boundary_f1"] == pytest.approx(1)
    assert [row["name"] for row in scores["per_image"]] == ["view0", "view1"]
    assert scores["protocol"] == (
        "depth in metres, no alignment, 0.001 to 80 m, holes count as errors"
    )
    assert scores["normals"] == ""
    assert scores["resolution"] == "at the size of the ground truth, 40 x 56 pixels"
    assert scores["data"] == "folder"


def test_run_evaluation_names_the_files_it_wrote(photos, maps, tmp_path):
    evaluation = evaluate(maps, photos, tmp_path / "out")
    names = [path.name for path in evaluation.written]
    assert names[:4] == ["metrics.json", "metrics.csv", "report.html", "examples.png"]
    assert "checksum" in (tmp_path / "out" / "provenance.json").read_text()
    assert all(path.is_file() for path in evaluation.written)


def test_metrics_csv_holds_the_scores_of_every_image(photos, maps, tmp_path):
    scores = scores_of(maps, photos, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "metrics.csv").open()))
    assert [(row["image"], row["candidate"]) for row in rows] == [
        ("view0", "predicted"),
        ("view1", "predicted"),
    ]
    for row, image in zip(rows, scores["per_image"], strict=True):
        assert float(row["depth_rmse"]) == image["predicted"]["depth"]["rmse"]
        assert float(row["depth_seam"]) == image["predicted"]["depth"]["seam"]


def test_report_shows_the_typical_image_where_it_is_none_of_the_worst(photos, maps, tmp_path):
    error = 1.2 * np.load(maps / "view1_depth.npy")
    np.save(maps / "view1_depth.npy", error.astype(np.float32))
    config = Config(data=Data(source="folder", path=str(photos)), prior=Prior(kind="depth"))
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss"\n{"step": 3, "loss": 1.0}\n')
    provenance = {"command": "urgt eval --predictions maps"}
    out = tmp_path / "out"
    run_evaluation(SavedPredictions(maps, 256.0), config, out, 1, provenance, log)
    page = (out / "report.html").read_text()
    assert 'id="front"' in page and 'src="report/training.svg"' in page
    assert "<span>--predictions maps</span>" in page and "<dt>machine</dt>" in page
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["configuration"].startswith("--prior.kind depth --data.source folder")
    assert "jax" in facts["program"] and facts["date"].endswith("UTC")


def test_run_evaluation_aligns_disparity_of_any_scale(photos, maps, tmp_path):
    for file in maps.iterdir():
        depth = np.load(file)
        disparity = np.where(depth > 0, 3 / np.maximum(depth, 0.1) + 0.5, 0.5)
        np.save(file, disparity.astype(np.float32))
    scores = scores_of(maps, photos, tmp_path / "out", kind="disparity")
    assert scores["predicted"]["depth"]["abs_rel"] < 1e-5
    assert "least squares of disparity" in scores["protocol"]


def test_run_evaluation_reads_16_bit_png_at_its_scale(photos, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    for file in photos.glob("*_depth.npy"):
        steps = np.round(np.load(file) * 500).astype(np.uint16)
        Image.fromarray(steps).save(maps / file.with_suffix(".png").name)
    right = scores_of(maps, photos, tmp_path / "right", scale=500)
    assert right["predicted"]["depth"]["abs_rel"] < 1e-3
    wrong = scores_of(maps, photos, tmp_path / "wrong", scale=256)
    assert wrong["predicted"]["depth"]["abs_rel"] == pytest.approx(500 / 256 - 1, abs=0.01)


def test_run_evaluation_scores_normals_of_the_images_that_have_some(photos, maps, tmp_path):
    normal = np.zeros((40, 56, 3), np.float32)
    normal[..., 2] = -2.0  # lengths do not matter
    np.save(maps / "view1_normal.npy", normal)
    scores = scores_of(maps, photos, tmp_path / "out")
    first, second = scores["per_image"]
    assert first["predicted"]["normal"] == {}
    mean = second["predicted"]["normal"]["mean"]
    assert 0 < mean < 90
    assert scores["predicted"]["pooled"]["mean"] == mean
    assert scores["predicted"]["depth"]["agreement"] > 0
    assert scores["normals"] == (
        "normals against pseudo-normals of the true depth (least-squares planes of 1/depth in 5 x "
        "5 pixels, those within 5 %)"
    )


def test_run_evaluation_scores_normals_of_a_set_without_depth(tmp_path):
    miniature = WRITERS["scannet_normals"](tmp_path / "set")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / f"maps/{miniature.name}_normal.npy", miniature.normal.astype(np.float32))
    np.save(tmp_path / f"maps/{miniature.name}_depth.npy", np.ones((12, 17), np.float32))
    config = Config(
        data=Data(source="scannet_normals", path=str(tmp_path / "set")), prior=Prior(kind="depth")
    )
    maps = SavedPredictions(tmp_path / "maps", 256.0)
    summary = run_evaluation(maps, config, tmp_path / "out").summary
    assert summary["predicted"]["normal"]["mean"] < 0.01
    assert summary["predicted"]["depth"] == {}
    assert summary["normals"] == "normals against true normals"
    assert list(summary["scenes"]) == ["scene0001_01"]


def test_run_evaluation_scores_the_boundaries_of_mattes(tmp_path):
    WRITERS["mattes"](tmp_path / "set")
    disparity = np.full((12, 17), 0.2, np.float32)
    disparity[3:9, 4:12] = 1  # the foreground, nearer than the rest
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/bench.npy", disparity)
    config = Config(data=Data(source="mattes", path=str(tmp_path / "set")))
    maps = SavedPredictions(tmp_path / "maps", 256.0)
    scores = run_evaluation(maps, config, tmp_path / "out").summary["predicted"]["depth"]
    assert scores == {"boundary_recall": pytest.approx(1)}


def test_run_evaluation_skips_images_without_maps_and_names_unused_files(photos, maps, tmp_path):
    (maps / "view0_depth.npy").rename(maps / "other_depth.npy")
    evaluation = evaluate(maps, photos, tmp_path / "out")
    assert evaluation.summary["images"] == 1
    assert list(evaluation.summary["skipped"]) == ["view0"]
    assert evaluation.unused_files == ["other_depth.npy"]


def test_run_evaluation_fails_if_no_image_can_be_scored(photos, maps, tmp_path):
    for file in maps.iterdir():
        file.write_bytes(b"")
    with pytest.raises(
        NegativeResult, match="none of 2 images could be scored; .* view0: .*depth.npy"
    ):
        evaluate(maps, photos, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_run_evaluation_names_a_missing_package_before_it_scores(
    photos, maps, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r'jinja2 is not installed. Run: pip install "urgt-jax'):
        evaluate(maps, photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_run_evaluation_skips_an_image_that_raises_an_unforeseen_error(
    photos, maps, tmp_path, monkeypatch
):
    read_depth = SavedPredictions.read_depth

    def failing(self, name):
        if name == "view0":
            raise ZeroDivisionError("of some\nlibrary")
        return read_depth(self, name)

    monkeypatch.setattr(SavedPredictions, "read_depth", failing)
    scores = scores_of(maps, photos, tmp_path / "out")
    assert scores["images"] == 1
    assert scores["skipped"] == {"view0": "ZeroDivisionError: of some library"}


def test_run_evaluation_reads_predictions_with_upper_case_endings(photos, maps, tmp_path):
    (maps / "view0_depth.npy").rename(maps / "view0_depth.NPY")
    assert scores_of(maps, photos, tmp_path / "out")["images"] == 2
