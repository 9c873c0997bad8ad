"""What a forward pass costs, measured by the command."""

import csv

import jax
import numpy as np
import pytest

from urgt_jax import scaling
from urgt_jax.config import SIZES
from urgt_jax.errors import UserError
from urgt_jax.model.families import structure


@pytest.fixture(scope="module")
def cost():
    return scaling.measure("tiny", 2, "float32", 1)


def test_parts_add_up(cost):
    parts = cost.encode_cpu_seconds, cost.attend_cpu_seconds, cost.heads_cpu_seconds
    assert min(parts) > 0 and sum(parts) <= cost.cpu_seconds * 1.01
    assert cost.compile_seconds > 0 and 0.1 < cost.peak_gb < 24
    assert cost.tokens == 2 * (5 + 4 * 7)
    shapes = jax.tree.leaves(structure(SIZES["tiny"])[1])
    assert cost.parameters == sum(int(np.prod(x.shape)) for x in shapes)


def test_lines_are_added_to_a_table(cost, tmp_path):
    for _ in range(2):
        scaling._append(tmp_path / "costs.csv", cost)
    rows = list(csv.DictReader((tmp_path / "costs.csv").open()))
    assert [row["patches"] for row in rows] == ["2", "2"]


@pytest.mark.parametrize("patches,grid", [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7))])
def test_grids_are_as_square_as_can_be(patches, grid):
    assert scaling._squarish(patches) == grid


@pytest.mark.parametrize(
    "options,told",
    [(["--patches", "0"], "at least one"), (["--sizes", "huge"], "invalid choice"),
     (["--repeat", "0"], "at least one pass")],
)  # fmt: skip
def test_what_cannot_be_measured_is_told(monkeypatch, options, told):
    monkeypatch.setattr("sys.argv", ["scaling", *options])
    with pytest.raises(UserError, match=told):
        scaling.main()
