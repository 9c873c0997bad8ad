"""The cost of a training step."""

import csv

import pytest

from urgt_jax.commands import scale
from urgt_jax.errors import UserError
from urgt_jax.scaling.step_benchmark import StepCost, append_step
from urgt_jax.scaling.study import Point, StudyTable


def _point(what="flops", patches=4, mesh="patch=1", resolution="", size="tiny", remat=""):
    return Point(what, size, resolution, patches, mesh, "float32", remat)


def _study(*options):
    scale.main([str(option) for option in options])


def test_append_step_adds_rows_to_a_table(tmp_path):
    step = StepCost("tiny", "images", 1, 1, "none", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for _ in range(2):
        append_step(tmp_path / "costs.csv", step)
    rows = list(csv.DictReader((tmp_path / "costs.csv").open()))
    assert [row["patches"] for row in rows] == ["1", "1"]


def test_train_refuses_the_table_of_a_study(tmp_path):
    StudyTable(tmp_path / "t.csv").add(_point(), {"parameters": 1})
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(UserError, match="not a table of training steps"):
        _study("--train", "--sizes", "tiny", "--out", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == before
