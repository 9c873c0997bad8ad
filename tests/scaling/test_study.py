"""What a forward pass costs by the command, and the table and curves of a study."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from urgt_jax.commands import scale
from urgt_jax.config import SIZES, Config, Data
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.inference import offload
from urgt_jax.inference.refiner import Refiner
from urgt_jax.inference.stages import Stages
from urgt_jax.models import flops
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.scaling import curves, forward_benchmark, memory, page, points, study
from urgt_jax.scaling.step_benchmark import StepCost, append_step
from urgt_jax.scaling.study import COLUMNS, Point, StudyTable
from urgt_jax.weights.weight_file import save_weights


@pytest.fixture(scope="module", autouse=True)
def small(micro):
    """A size that is quick to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "micro", micro.model)
        yield micro.model


@pytest.fixture(scope="module")
def cost(small):
    return forward_benchmark.measure("micro", 2, "float32", 1)


def _point(what="flops", patches=4, mesh="patch=1", resolution="", size="tiny", remat=""):
    return Point(what, size, resolution, patches, mesh, "float32", remat)


def _study(*options):
    scale.main([str(option) for option in options])


def test_parts_add_up(small, cost):
    parts = cost.encode_cpu_seconds, cost.attend_cpu_seconds, cost.heads_cpu_seconds
    assert min(parts) > 0 and sum(parts) <= cost.cpu_seconds * 1.01
    assert cost.compile_seconds > 0 and 0.1 < cost.peak_gb < 24
    assert cost.tokens == 2 * (5 + 2 * 3)
    shapes = jax.tree.leaves(abstract_params(small))
    assert cost.parameters == sum(int(np.prod(x.shape)) for x in shapes)


def test_a_pass_is_timed_at_once_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(offload, "patches_that_fit", lambda *_: 1)
    assert forward_benchmark.measure("micro", 2, "float32", 1).attend_cpu_seconds > 0


def test_training_steps_are_added_to_a_table(tmp_path):
    step = StepCost("tiny", "images", 1, 1, "none", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for _ in range(2):
        append_step(tmp_path / "costs.csv", step)
    rows = list(csv.DictReader((tmp_path / "costs.csv").open()))
    assert [row["patches"] for row in rows] == ["1", "1"]


def test_training_steps_are_not_added_to_a_study(tmp_path):
    StudyTable(tmp_path / "t.csv").add(_point(), {"parameters": 1})
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(UserError, match="not a table of training steps"):
        _study("--train", "--sizes", "tiny", "--out", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == before


@pytest.mark.parametrize("patches,grid", [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7))])
def test_grids_are_as_square_as_can_be(patches, grid):
    assert forward_benchmark.squarest_grid(patches) == grid


@pytest.mark.parametrize(
    "patches,process,grid",
    [(16, (56, 98), (4, 4)), (36, (56, 56), (4, 9)), (2, (56, 56), (1, 2)), (7, (56, 56), (1, 7))],
)
def test_grids_squeeze_patches_least(patches, process, grid):
    assert points.fitted_grid((2160, 3840), patches, process) == grid


def test_memory_is_of_the_shapes_that_the_refiner_passes(small, monkeypatch):
    """Arrays and what waits are told twice, in inference.py and in memory.py."""
    pixels = 8 * 2 * math.prod(small.patch_size)  # two patches at a time
    monkeypatch.setattr("urgt_jax.inference.refiner.HEAD_PIXELS", pixels)
    refiner, seen = Refiner(forward_benchmark.random_weights(small), Config(model=small)), {}
    expected = {
        name: arrays for name, (arrays, _) in memory.stage_inputs(small, 3, None, 1).items()
    }

    def fake(name, stage):
        out = jax.eval_shape(stage, refiner.params, *expected[name])

        def record(params, *arrays):
            seen[name] = _shapes(arrays)
            return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), out)

        return record

    refiner.stages = Stages(*map(fake, memory.STAGES, refiner.stages))
    rows, cols = small.patch_size
    refiner(*forward_benchmark.noise_inputs(rows, 3 * cols), grid=(1, 3), overlap=0.0)
    assert seen == {name: _shapes(arrays) for name, arrays in expected.items()}


def _shapes(arrays):
    return [(x.shape, np.dtype(x.dtype)) for x in jax.tree.leaves(arrays)]


@pytest.mark.slow
def test_memory_is_what_the_compiled_stages_hold(small):
    stages = memory.compiled("micro", 3, "float32")
    tokens = 3 * small.tokens[0] * small.tokens[1] * small.width * 4  # bytes
    layers = len(set(small.dpt_layers)) * 3 * tokens_per_patch(small) * 2 * small.width * 4
    assert stages["heads"].held == layers <= stages["attend"].output <= layers + 64
    assert tokens <= stages["attend"].argument <= 2 * tokens
    assert all(stage.temporary > 0 for stage in stages.values())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])  # a patch's six tokens are no multiple of four
def test_shared_patches_take_a_devices_memory_each(devices):
    """Devices with a patch each hold what one does with one, and what they exchange."""
    shared, alone = (memory.compiled("micro", n, "float32", n) for n in (devices, 1))
    for name in memory.STAGES:
        assert shared[name].argument == alone[name].argument
        assert shared[name].output == pytest.approx(alone[name].output, rel=0.01)
        assert shared[name].total == pytest.approx(alone[name].total, rel=0.3)


@pytest.mark.slow
def test_memory_of_training_grows_with_patches_and_less_where_blocks_are_computed_again(small):
    of = lambda patches, remat: points.training(  # noqa: E731
        _point("training", patches, size="micro", remat=remat)
    )
    few, many = of(8, "none"), of(16, "none")
    assert few["memory_argument"] > 3 * 4 * few["parameters"]  # with the optimiser's two moments
    grown = many["memory_temporary"] - few["memory_temporary"]
    assert 0.8 * few["memory_temporary"] < grown < 1.1 * few["memory_temporary"]
    assert of(16, "blocks")["memory_temporary"] < many["memory_temporary"]


def test_the_page_of_training_has_a_column_for_every_policy(tmp_path):
    table = StudyTable(tmp_path / "t.csv")
    for patches in (16, 32):
        for remat, held in (("none", 4e9), ("blocks", 1e9)):
            point = _point("training", patches, size="small", remat=remat)
            table.add(point, {"memory_argument": 2e9, "memory_temporary": held * patches})
    text = page.write(tmp_path / "page.md", table).read_text()
    assert "--what training --patches 16 32 --sizes small --remat none blocks" in text
    assert "| N | arguments | remat none | remat blocks |" in text
    assert "| 32 | 2 | 128 | 32 |" in text and "blocks as N^1.00" in text
    assert (tmp_path / "page" / "training-small.svg").exists()


@pytest.mark.parametrize("size", ["tiny", "large"])
def test_attention_crosses_what_is_linear(size):
    model = SIZES[size]
    where = points.crossing(model)
    for patches, above in ((math.floor(where), False), (math.ceil(where), True)):
        found = flops.forward(model, patches)
        assert (found.across_attention > found.total / 2) == above


def test_operations_of_a_device_are_its_share():
    whole, share = points.operations(_point()), points.operations(_point(mesh="patch=4"))
    parts = [name for name in whole if name.startswith(("flops", "seconds"))]
    assert all(share[name] == pytest.approx(whole[name] / 4) for name in parts)
    total = sum(whole[f"flops_{name}"] for name in study.FLOPS)
    assert total == pytest.approx(flops.forward(SIZES["tiny"], 4).total)
    with pytest.raises(UserError, match="4 patches do not divide evenly among 3"):
        points.operations(_point(mesh="patch=3"))


def test_a_pass_that_takes_too_long_or_too_much_is_not_begun(monkeypatch):
    monkeypatch.setattr(points, "_matmul_peak", lambda: 1e9)
    monkeypatch.setattr(forward_benchmark, "in_own_process", lambda *_: pytest.fail("was begun"))
    with pytest.raises(UserError, match="raise --limit 0.1"):
        points.timed(0.1, 1)(_point("time"))
    monkeypatch.setattr(points, "free_memory", lambda: 1e6)
    with pytest.raises(UserError, match="at least .* GB of memory"):
        points.timed(10, 1)(_point("time"))


def test_a_study_goes_on_where_it_stopped(tmp_path, capsys):
    asked, table, worked = (
        [_point(patches=n) for n in (1, 4, 9)],
        StudyTable(tmp_path / "t.csv"),
        [],
    )

    def work(point):
        worked.append(point.patches)
        if point.patches == 4 and len(worked) == 2:
            raise UserError("too\nlarge")
        if point.patches == 9 and len(worked) == 3:
            raise KeyboardInterrupt
        return points.operations(point)

    with pytest.raises(KeyboardInterrupt):
        study.run(asked, table, work)
    assert table.rows()[asked[1]] == {"note": "too large"}
    study.run(asked, table, work)
    assert worked == [1, 4, 9, 4, 9]
    assert "skipped 1 of 3 points" in capsys.readouterr().out
    assert table.rows()[asked[2]] == pytest.approx(points.operations(asked[2]))
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 4


def test_scores_of_another_number_of_scenes_are_worked_out_again(tmp_path):
    asked, table, worked = [_point("quality")], StudyTable(tmp_path / "t.csv"), []
    for scenes in (2, 2, 4):
        study.run(asked, table, lambda point, n=scenes: worked.append(n) or {"scenes": n}, scenes)
    assert worked == [2, 4]
    assert table.rows() == {asked[0]: {"scenes": 4}}


def test_scenes_are_cut_into_just_the_patches_that_are_asked_for(micro):
    made = replace(micro, eval=replace(micro.eval, overlap=0.3, pool=2))
    config = points.on_scenes(made, (1080, 1920), (4, 4), 2)
    cut = config.eval
    assert grid.cover_image(*config.data.size, *cut.grid, cut.overlap).count == 16
    assert cut.pool == 1 and cut.images == 2


def test_the_page_tells_a_command_for_each_weights(tmp_path):
    table = StudyTable(tmp_path / "t.csv")
    row = {"grid": "2x2", "scenes": 2, "coarse_abs_rel": 0.1, "refined_abs_rel": 0.05}
    for weights in ("runs/a", "runs/b"):
        table.add(_point("quality", size=weights, resolution="2k"), row)
    text = page.write(tmp_path / "page.md", table).read_text()
    for weights in ("runs/a", "runs/b"):
        assert f"--weights {weights} --scenes 2" in text


@pytest.mark.parametrize(
    "content,told",
    [(b"size,dtype\nlarge,float32\n", "its columns differ: *"), (b"\xff\xfe\x00", "cannot read"),
     (",".join(COLUMNS).encode() + b"\nflops,tiny\n", "line 2 is damaged"),
     (",".join(COLUMNS).encode() + b"\nflops,tiny,,four" + b"," * 40, "line 2 is damaged")],
)  # fmt: skip
def test_another_table_is_left_as_it_is(monkeypatch, tmp_path, content, told):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told.rstrip(": *")):
        _study("--what", "flops", "--sizes", "tiny", "--out", path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_slopes_are_exponents_of_many_patches(power):
    line = [(n, 3.0 * n**power if n >= 16 else 1.0) for n in (1, 4, 16, 36, 64)]
    assert curves.slope(line) == pytest.approx(power)
    assert curves.slope(line[:3]) is None


def test_chart_draws_points_on_logarithmic_axes():
    curve = curves.Curve("one", [(1, 1), (10, 10), (100, 100)])
    svg = curves.draw_chart("a < b", "N", "GB", [curve])
    paths = re.findall(r'<path d="(M [\d. L\n]+)" clip-path="[^"]*" style="fill: none; [^>]*>', svg)
    (drawn,) = [path for path in paths if path.count("L") == 2]
    x, y = np.array(re.findall(r"([\d.]+) ([\d.]+)", drawn), float).T
    assert np.allclose(np.diff(x), x[1] - x[0], atol=0.2) and x[0] < x[1]
    assert np.allclose(np.diff(y), y[1] - y[0], atol=0.2) and y[0] > y[1]
    assert "a &lt; b" in svg and "a < b" not in svg


def test_chart_of_the_same_curves_has_the_same_bytes():
    curve = curves.Curve("one", [(1, 1), (10, 10)])
    first, second = (curves.draw_chart("title", "N", "GB", [curve]) for _ in range(2))
    assert first == second


def test_the_page_has_commands_that_fill_its_tables(monkeypatch, tmp_path, capsys):
    out, report = tmp_path / "t.csv", tmp_path / "page.md"
    options = ["--what", "flops", "--sizes", "tiny", "--out", out, "--report", report]
    _study(*options, "--patches", 1, 4, 16, 36, "--mesh", "patch=1", "patch=4")
    text = report.read_text()
    told = re.search(r"^    urgt scale (.*)$", text, re.M)[1].split()
    before = out.read_bytes()
    _study(*told)
    assert (
        "skipped 8 of 8 points" not in capsys.readouterr().out
    )  # one was refused, and is tried again
    assert out.read_bytes() == before
    assert "tiny patch=4, 1 patches: 1 patches do not divide evenly" in text
    assert f"N = {points.crossing(SIZES['tiny']):.1f}" in text
    assert f"jax {jax.__version__}" in text
    assert Path(tmp_path / "page" / "flops.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_quality_is_scored_in_grids_of_any_number(micro, monkeypatch, tmp_path):
    monkeypatch.setitem(study.RESOLUTIONS, "2k", (72, 108))
    weights, out = tmp_path / "w.safetensors", tmp_path / "t.csv"
    config = replace(micro, data=Data(source="folder", path="elsewhere"))
    save_weights(weights, forward_benchmark.random_weights(config.model), config)
    _study("--what", "quality", "--weights", weights, "--resolutions", "2k",
           "--scenes", 1, "--patches", 2, "--out", out, "--report", tmp_path / "p.md")  # fmt: skip
    ((point, row),) = StudyTable(out).rows().items()
    assert point == _point("quality", 2, resolution="2k", size=str(weights))
    assert row["grid"] in ("1x2", "2x1") and row["scenes"] == 1
    scores = [row[f"{side}_abs_rel"] for side in ("coarse", "refined")]
    assert all(0 < x < 100 for x in scores) and scores[0] != scores[1]
    assert "coarse → refined" in (tmp_path / "p.md").read_text()


@pytest.mark.parametrize(
    "options,told",
    [(["--patches", "0"], "at least one"), (["--sizes", "huge"], "invalid choice"),
     (["--repeat", "0"], "at least one pass"), (["--what", "quality"], "needs --weights"),
     (["--what", "speed"], "invalid choice"), (["--mesh", "8"], "give patch=K"),
     (["--limit", "0"], "above 0 seconds"), (["--scenes", "0"], "at least one"),
     (["--limits", "3"], "--limits; did you mean --limit"), (["--out", "a"], "--out a: .* in .csv"),
     (["--report", "a.html"], "--report a.html: .* in .md"),
     (["--train", "--remat", "blocks", "--mesh", "patch=2"],
      "--mesh --remat cannot be combined with --train"),
     (["--model.depth", "3"], "--model.depth 3: only with --train")],
)  # fmt: skip
def test_what_cannot_be_measured_is_told(monkeypatch, options, told):
    with pytest.raises(UserError, match=told):
        _study(*options)


def test_every_kind_has_a_section():
    assert set(page.SECTIONS) == set(page.ABOUT) == set(scale.KINDS)
