"""How points of a study are worked out."""

import math
from dataclasses import replace

import pytest
from helpers.studies import make_point, run_study

from urgt_jax.config import SIZES, Data
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.models import flops
from urgt_jax.scaling import forward_benchmark, points, study
from urgt_jax.scaling.study import StudyTable
from urgt_jax.weights.weight_file import save_weights


@pytest.mark.parametrize(
    "patches,process,grid",
    [(16, (56, 98), (4, 4)), (36, (56, 56), (4, 9)), (2, (56, 56), (1, 2)), (7, (56, 56), (1, 7))],
)
def test_fitted_grid_distorts_patches_least(patches, process, grid):
    assert points.fitted_grid((2160, 3840), patches, process) == grid


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_crossing_is_where_attention_costs_half(size):
    model = SIZES[size]
    where = points.crossing(model)
    for patches, above in ((math.floor(where), False), (math.ceil(where), True)):
        found = flops.forward(model, patches)
        assert (found.across_attention > found.total / 2) == above


def test_operations_of_a_device_are_its_share():
    whole, share = points.operations(make_point()), points.operations(make_point(mesh="patch=4"))
    parts = [name for name in whole if name.startswith(("flops", "seconds"))]
    assert all(share[name] == pytest.approx(whole[name] / 4) for name in parts)
    total = sum(whole[f"flops_{name}"] for name in study.FLOPS)
    assert total == pytest.approx(flops.forward(SIZES["tiny"], 4).total)
    with pytest.raises(UserError, match="4 patches do not divide evenly among 3"):
        points.operations(make_point(mesh="patch=3"))


def test_timed_does_not_start_a_pass_that_is_too_long_or_too_large(monkeypatch):
    limits = points.MachineLimits(flops=1e9, memory=1e12)
    monkeypatch.setattr(points, "_machine_limits", lambda _: limits)
    monkeypatch.setattr(points, "in_own_process", lambda *_: pytest.fail("was begun"))
    with pytest.raises(UserError, match="raise --limit 0.1"):
        points.timed(0.1, 1, None)(make_point("time"))
    monkeypatch.setattr(points, "_machine_limits", lambda _: limits._replace(memory=1e6))
    with pytest.raises(UserError, match="at least .* GB of memory"):
        points.timed(10, 1, None)(make_point("time"))


def test_on_scenes_cuts_exactly_the_grid_asked_for(micro):
    made = replace(micro, eval=replace(micro.eval, overlap=0.3, pool=2))
    config = points.on_scenes(made, (1080, 1920), (4, 4), 2)
    cut = config.eval
    assert grid.cover_image(*config.data.size, *cut.grid, cut.overlap).count == 16
    assert cut.pool == 1 and cut.images == 2


@pytest.mark.slow
def test_quality_scores_any_number_of_patches(micro, monkeypatch, tmp_path):
    monkeypatch.setitem(study.RESOLUTIONS, "2k", (72, 108))
    weights, out = tmp_path / "w.safetensors", tmp_path / "t.csv"
    config = replace(micro, data=Data(source="folder", path="elsewhere"))
    save_weights(weights, forward_benchmark.random_weights(config.model), config)
    run_study("--what", "quality", "--weights", weights, "--resolutions", "2k",
           "--scenes", 1, "--patches", 2, "--out", out, "--report", tmp_path / "p.md")  # fmt: skip
    ((point, row),) = StudyTable(out).rows().items()
    assert point == make_point("quality", 2, resolution="2k", size=str(weights))
    assert row["grid"] in ("1x2", "2x1") and row["scenes"] == 1
    scores = [row[f"{side}_abs_rel"] for side in ("coarse", "refined")]
    assert all(0 < x < 100 for x in scores) and scores[0] != scores[1]
    assert "coarse → refined" in (tmp_path / "p.md").read_text()
