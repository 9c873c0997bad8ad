"""`urgt tables` on the command line."""

import re
from functools import partial

import pytest
from helpers import command

from urgt_jax.commands.tables import main
from urgt_jax.errors import NegativeResult, UserError
from urgt_jax.evaluation import paper_tables
from urgt_jax.evaluation.results import write_results

call = partial(command.call, main)

ROWS = {
    "plain": """
rows = (
    TableRow("Modes", "plain", {"abs_rel": 0.1}),
    TableRow("Modes", "prior", candidate="coarse", order=2),
)
""",
    "overlap": """
rows = (TableRow("Modes", "overlap", {"abs_rel": 0.3}, order=1),)
trained = "plain"
evaluation = {"eval.overlap": 0.5}
""",
}


@pytest.fixture
def base(micro, tmp_path):
    return command.config_file(micro, tmp_path)


def write_rows(folder, base, rows: dict[str, str]):
    """A folder of configurations with rows."""
    folder.mkdir()
    for name, body in rows.items():
        text = "from urgt_jax.evaluation.paper_tables import TableRow\n"
        (folder / f"{name}.py").write_text(f"{text}BASE = {str(base)!r}\n{body}\n")
    return folder


def write_scores(folder, abs_rel: float) -> None:
    """A finished run."""
    scores = {"depth": {"abs_rel": abs_rel, "boundary_f1": None}, "normal": {}}
    summary = {"data": "some data", "protocol": "some mode", "refined": scores, "coarse": scores}
    folder.mkdir(parents=True)
    write_results(folder, summary)


def test_tables_collect_means_and_deviations_over_seeds(base, tmp_path):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    runs = tmp_path / "runs"
    write_scores(runs / "plain-seed0", 0.2)
    write_scores(runs / "plain-seed1", 0.4)
    call(folder, "--runs", runs, "--seeds", 0, 1, "--collect")
    text = (runs / "tables.md").read_text()
    assert "| plain | 0.3000 ± 0.1414 (0.1000) |" in text
    assert "| overlap | – (0.3000) |" in text
    assert "| prior | 0.3000 ± 0.1414 |" in text
    assert text.index("| plain") < text.index("| overlap") < text.index("| prior")
    assert "some data; some mode" in text and "swapped" in text


def test_tables_page_needs_no_other_file(base, tmp_path):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    runs = tmp_path / "runs"
    write_scores(runs / "plain-seed0", 0.2)
    call(folder, "--runs", runs, "--collect")
    page = (runs / "tables.html").read_text()
    assert "<td>0.2000 (0.1000)</td>" in page
    sources = re.findall(r"(?:src|href)=\"([^\"]*)", page)
    assert len(sources) == 1
    assert sources[0].startswith("data:image/svg+xml;base64,")


def test_tables_are_also_written_as_latex(base, tmp_path):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    runs = tmp_path / "runs"
    for seed, value in ((0, 0.2), (1, 0.4)):
        write_scores(runs / f"plain-seed{seed}", value)
    call(folder, "--runs", runs, "--collect")
    assert not (runs / "tables.tex").exists()
    call(folder, "--runs", runs, "--collect", "--latex", "--seeds", 0, 1)
    text = (runs / "tables.tex").read_text()
    assert r" & AbsRel $\downarrow$ " in text
    assert r"plain & 0.3000 $\pm$ 0.1414 (0.1000)" in text
    assert text.count(r"\begin{tabular}{l") == text.count(r"\end{tabular}") > 0
    assert "%" not in text.replace(r"\%", "").split("\n\n")[1]


def test_tables_not_in_the_paper_show_what_was_measured(base, tmp_path):
    rows = {"own": 'rows = (TableRow("Our own", "ours"),)'}
    folder = write_rows(tmp_path / "rows", base, rows)
    runs = tmp_path / "runs"
    write_scores(runs / "own-seed0", 0.25)
    call(folder, "--runs", runs, "--collect")
    assert "|  | AbsRel ↓ |" in (runs / "tables.md").read_text()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "holds no configuration with `rows`"),
        ({"a": 'rows = ()\ntrained = "b"'}, "there is no configuration b"),
        ({"a": "rows = ("}, "a.py does not run: SyntaxError"),
    ],
)
def test_tables_reject_folders_without_usable_rows(base, tmp_path, rows, message):
    folder = write_rows(tmp_path / "rows", base, rows)
    with pytest.raises(UserError, match=message):
        call(folder, "--runs", tmp_path / "runs", "--collect")


def test_tables_reject_a_wrong_field_before_anything_runs(base, tmp_path):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    with pytest.raises(UserError, match="--optim.steps"):
        call(folder, "--runs", tmp_path / "runs", "--optim.steps", "many")
    assert not (tmp_path / "runs").exists()


def test_one_failed_run_does_not_stop_the_others(base, tmp_path, monkeypatch):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    runs = tmp_path / "runs"
    commands = []

    def run_command(words):
        commands.append(words[0])
        if words[0] == "train":
            write_scores(runs / "overlap-seed0", 0.2)
            raise UserError("urgt train failed with exit status 2")

    monkeypatch.setattr(paper_tables, "run_command", run_command)
    with pytest.raises(NegativeResult, match="1 runs failed .plain with seed 0.. Run the same"):
        call(folder, "--runs", runs)
    assert commands == ["train"]
    assert "| overlap | 0.2000 (0.3000) |" in (runs / "tables.md").read_text()


def test_tables_without_any_result_are_a_negative_one(base, tmp_path):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    with pytest.raises(NegativeResult, match="no run in .*runs is finished"):
        call(folder, "--runs", tmp_path / "runs", "--collect")


@pytest.mark.slow
def test_tables_train_and_score_what_is_missing(base, tmp_path, capsys):
    folder = write_rows(tmp_path / "rows", base, ROWS)
    runs = tmp_path / "runs"
    call(folder, "--runs", runs, "--optim.steps", 2)
    printed = capsys.readouterr().out
    assert printed.count("$ urgt train") == 1
    assert printed.count("$ urgt eval") == 2
    assert (runs / "plain-seed0/weights.safetensors").is_file()
    call(folder, "--runs", runs, "--optim.steps", 2)
    assert "$ urgt" not in capsys.readouterr().out
