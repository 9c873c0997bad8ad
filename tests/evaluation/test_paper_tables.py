"""The paper's rows as configurations, and the tables made of them."""

import pytest
from etils.epath import Path

from urgt_jax.commands.fields import override
from urgt_jax.config_files import command_line_options, load_config
from urgt_jax.evaluation import paper_tables
from urgt_jax.evaluation.paper_tables import Cell, Experiment, FilledRow, TableRow

CONFIGS = Path(__file__).parents[2] / "configs"


def test_experiments_change_the_base_as_their_configurations_do():
    experiments, base = paper_tables.load_experiments(CONFIGS / "ablations")
    assert base == CONFIGS / "u4k.py"
    for experiment in experiments:
        config = load_config(CONFIGS / f"ablations/{experiment.name}.py")
        trained = override(load_config(base), command_line_options(experiment.changes))
        if experiment.trained != experiment.name:
            trained = load_config(CONFIGS / f"ablations/{experiment.trained}.py")
        assert override(trained, command_line_options(experiment.evaluation)) == config


def test_experiments_fill_the_papers_tables():
    experiments, _ = paper_tables.load_experiments(CONFIGS / "ablations")
    published = paper_tables.load_published(CONFIGS / "ablations")
    scores = {experiment.name: [] for experiment in experiments}
    tables = paper_tables.fill_tables(experiments, scores, published)
    assert set(tables) == {
        "Depth on UnrealStereo4K",
        "Normals on UnrealStereo4K",
        "GridMix",
        "Positions",
        "Cross-patch attention",
        "Loss terms",
    }
    assert "PRO" in [row.title for row in tables["Depth on UnrealStereo4K"]]
    # The paper's own table has these two columns swapped.
    for rows in tables.values():
        for row in rows:
            mean = row.cells["mean"].paper
            assert mean is None or row.cells["normal_rmse"].paper > mean


def test_experiments_that_train_come_first():
    experiments, _ = paper_tables.load_experiments(CONFIGS / "ablations")
    trains = [experiment.trained == experiment.name for experiment in experiments]
    assert trains == sorted(trains, reverse=True)


def test_scoring_options_leave_out_fields_of_training():
    words = "--model.depth 3 --data.size 64 96 --optim.steps 2 --eval.images 4 --prior.kind depth"
    options = paper_tables.scoring_options(words.split())
    assert options == "--data.size 64 96 --eval.images 4 --prior.kind depth".split()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell([], None, 2), "–"),
        (Cell([], 0.5, 2), "– (0.50)"),
        (Cell([0.25], None, 2), "0.25"),
        (Cell([0.2, 0.4], 0.1, 4), "0.3000 ± 0.1414 (0.1000)"),
    ],
)
def test_cell_shows_ours_and_the_papers(cell, text):
    assert str(cell) == text


def filled_rows():
    row = TableRow("Modes", "<plain>", {"abs_rel": 0.1})
    coarse = TableRow("Modes", "prior", candidate="coarse", order=1)
    scores = {
        "refined": {"depth": {"abs_rel": 0.2}},
        "coarse": {"depth": {"abs_rel": 0.4}},
        "data": "some data",
        "protocol": "some mode",
    }
    experiments = [Experiment("plain", {}, {}, "plain", (coarse, row))]
    return paper_tables.fill_tables(experiments, {"plain": [scores, scores]}, [])


def test_plot_column_draws_a_dot_for_each_seed_and_a_ring_for_the_paper():
    rows = filled_rows()["Modes"]
    (axes,) = paper_tables.plot_column("abs_rel", rows).axes
    points = [tuple(map(tuple, line.get_xydata())) for line in axes.lines]
    assert points == [((0.2, 0.0), (0.2, 0.0)), ((0.1, 0.0),), ((0.4, 1.0), (0.4, 1.0))]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["<plain>", "prior"]


def test_html_escapes_titles_and_is_the_same_for_the_same_tables():
    page = paper_tables.to_html(filled_rows(), "some data; some mode")
    assert "<td>&lt;plain&gt;</td>" in page and "<plain>" not in page
    assert "some data; some mode" in page
    assert page == paper_tables.to_html(filled_rows(), "some data; some mode")


def test_html_of_a_table_without_values_has_no_columns():
    rows = [FilledRow("empty", {key: Cell([], None, 2) for key in paper_tables.COLUMNS})]
    assert paper_tables.shown_columns(rows) == []
    paper_tables.to_html({"Empty": rows}, "")


def test_latex_text_escapes_commands_and_symbols():
    assert paper_tables.latex_text("a_b & 5 % < 30° ±") == r"a\_b \& 5 \% $<$ 30$^{\circ}$ $\pm$"


def test_run_experiment_aligns_as_the_paper_does_and_changes_what_the_row_changes(
    monkeypatch, tmp_path
):
    commands = []
    monkeypatch.setattr(paper_tables, "run_command", commands.append)
    experiment = Experiment("overlap", {}, {"eval.overlap": 0.5}, "plain", ())
    fields = ["--eval.overlap", "0.25", "--optim.steps", "2"]
    paper_tables.run_experiment(experiment, "tiny", tmp_path, 0, fields)
    (words,) = commands
    assert words[:3] == ["eval", "--workdir", str(tmp_path / "plain-seed0")]
    assert words[-6:] == [
        *("--eval.align_pixels", "all"),
        *("--eval.overlap", "0.25"),
        *("--eval.overlap", "0.5"),  # the last one wins
    ]
