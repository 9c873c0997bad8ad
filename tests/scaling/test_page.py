"""The page of a study."""

import re

import jax
from etils.epath import Path
from helpers.studies import make_point, run_study

from urgt_jax.config import SIZES
from urgt_jax.scaling import page, points
from urgt_jax.scaling.study import StudyTable


def test_training_section_has_a_column_for_every_policy(tmp_path):
    table = StudyTable(tmp_path / "t.csv")
    for patches in (16, 32):
        for remat, held in (("none", 4e9), ("blocks", 1e9)):
            point = make_point("training", patches, size="small", remat=remat)
            table.add(point, {"memory_argument": 2e9, "memory_temporary": held * patches})
    text = page.write(tmp_path / "page.md", table).read_text()
    assert "--what training --patches 16 32 --sizes small --remat none blocks" in text
    assert "| N | arguments | remat none | remat blocks |" in text
    assert "| 32 | 2 | 128 | 32 |" in text and "blocks as N^1.00" in text
    assert (tmp_path / "page" / "training-small.svg").exists()


def test_page_has_a_command_for_each_weight_file(tmp_path):
    table = StudyTable(tmp_path / "t.csv")
    row = {"grid": "2x2", "scenes": 2, "coarse_abs_rel": 0.1, "refined_abs_rel": 0.05}
    for weights in ("runs/a", "runs/b"):
        table.add(make_point("quality", size=weights, resolution="2k"), row)
    text = page.write(tmp_path / "page.md", table).read_text()
    for weights in ("runs/a", "runs/b"):
        assert f"--weights {weights} --scenes 2" in text


def test_page_has_the_commands_that_fill_its_tables(monkeypatch, tmp_path, capsys):
    out, report = tmp_path / "t.csv", tmp_path / "page.md"
    options = ["--what", "flops", "--sizes", "tiny", "--out", out, "--report", report]
    run_study(*options, "--patches", 1, 4, 16, 36, "--mesh", "patch=1", "patch=4")
    text = report.read_text()
    words = re.search(r"^    urgt scale (.*)$", text, re.M)[1].split()
    before = out.read_bytes()
    run_study(*words)
    assert "skipped 7 of 8 points" in capsys.readouterr().out  # the eighth had failed
    assert out.read_bytes() == before
    assert "tiny patch=4, 1 patches: 1 patches do not divide evenly" in text
    assert f"N = {points.crossing(SIZES['tiny']):.1f}" in text
    assert f"jax {jax.__version__}" in text
    assert Path(tmp_path / "page" / "flops.svg").read_text().startswith("<?xml")
