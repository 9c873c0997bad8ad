"""The cost of a training step."""

import csv

import pytest
from helpers.studies import make_point, run_study

from urgt_jax.errors import UserError
from urgt_jax.scaling.step_benchmark import StepCost, append_step
from urgt_jax.scaling.study import StudyTable


def test_append_step_adds_rows_to_a_table(tmp_path):
    step = StepCost("tiny", "images", "float32", 1, 1, "none", *[1.0] * 7)
    for _ in range(2):
        append_step(tmp_path / "costs.csv", step)
    rows = list(csv.DictReader((tmp_path / "costs.csv").open()))
    assert [row["patches"] for row in rows] == ["1", "1"]


def test_train_refuses_the_table_of_a_study(tmp_path):
    StudyTable(tmp_path / "t.csv").add(make_point(), {"parameters": 1})
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(UserError, match="not a table of training steps"):
        run_study("--train", "--sizes", "tiny", "--out", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == before
