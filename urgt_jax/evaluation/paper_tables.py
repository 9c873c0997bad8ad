"""The paper's tables, with our results beside the published ones."""

import base64
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from etils.epath import Path, PathLike

from urgt_jax.config_files import command_line_options, load_module
from urgt_jax.errors import UserError, import_extra, require
from urgt_jax.evaluation.figures import svg_bytes
from urgt_jax.evaluation.results import RESULTS, read_results
from urgt_jax.files import find_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED_COLUMNS = 2  # of a table, from the left
# The paper's depth is aligned as PRO's is, over all pixels.
PAPER_SCORING = {"eval.align_pixels": "all"}
SCORING_FIELDS = ("--eval.", "--data.", "--prior.")  # the fields that scoring may change
NOTE = (
    "Our results are means ± standard deviations over seeds; the paper's are in brackets. The "
    "median and RMSE columns of the paper's normal table are swapped, since an RMSE cannot be "
    "below the mean; here they are in the right order. Compare rows within a table only: the "
    "paper's global RoPE is its pure 4x4, and its cross-patch attention is its pure 1x1."
)


class TableColumn(NamedTuple):
    """A metric as a table shows it."""

    kind: str  # "depth" or "normal"
    metric: str  # in metrics.json
    title: str
    digits: int


COLUMNS = {
    "abs_rel": TableColumn("depth", "abs_rel", "AbsRel ↓", 4),
    "delta1": TableColumn("depth", "delta1", "δ1 ↑", 3),
    "rmse": TableColumn("depth", "rmse", "RMSE m ↓", 2),
    "ce": TableColumn("depth", "ce", "CE m ↓", 4),
    "boundary_f1": TableColumn("depth", "boundary_f1", "boundary F1 ↑", 4),
    "mean": TableColumn("normal", "mean", "mean ° ↓", 2),
    "median": TableColumn("normal", "median", "median ° ↓", 2),
    "normal_rmse": TableColumn("normal", "rmse", "RMSE ° ↓", 2),
    "below_5": TableColumn("normal", "below_5", "< 5° % ↑", 2),
    "below_11.25": TableColumn("normal", "below_11.25", "< 11.25° % ↑", 2),
    "below_30": TableColumn("normal", "below_30", "< 30° % ↑", 2),
}
LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "%": "\\%",
    "&": "\\&",
    "#": "\\#",
    "$": "\\$",
    "_": "\\_",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": "$\\pm$",
    "°": "$^{\\circ}$",
    "δ": "$\\delta$",
    "↓": "$\\downarrow$",
    "↑": "$\\uparrow$",
    "–": "--",
}
OWN_COLUMNS = ("abs_rel", "ce", "boundary_f1", "mean", "median")  # of tables not in the paper


@dataclass(frozen=True)
class TableRow:
    """A row of one of the paper's tables, with the published results."""

    table: str
    title: str
    paper: dict[str, float] = field(default_factory=dict)  # by key of COLUMNS
    candidate: str = "refined"  # the candidate whose scores are shown; "coarse" is the prior alone
    order: int = 0  # position in the table


class Experiment(NamedTuple):
    """A configuration of the folder, with the rows that show its scores."""

    name: str
    changes: dict[str, object]  # fields that training changes in the base configuration
    evaluation: dict[str, object]  # fields that scoring changes in addition
    trained: str  # name of the experiment whose weights are scored
    rows: tuple[TableRow, ...]


class Cell(NamedTuple):
    """One of our results over seeds, and the paper's."""

    ours: list[float]
    paper: float | None
    digits: int

    def __str__(self) -> str:
        text = "–"
        if self.ours:
            text = f"{np.mean(self.ours):.{self.digits}f}"
        if len(self.ours) > 1:
            text += f" ± {np.std(self.ours, ddof=1):.{self.digits}f}"
        if self.paper is not None:
            text += f" ({self.paper:.{self.digits}f})"
        return text


class FilledRow(NamedTuple):
    """A row of a table with its results."""

    title: str
    cells: dict[str, Cell]  # by key of COLUMNS


Scores = dict[str, list[dict]]  # by experiment: the contents of metrics.json for each seed
Tables = dict[str, list[FilledRow]]  # by title


def load_experiments(folder: Path) -> tuple[list[Experiment], Path]:
    """The configurations of a folder, and the base configuration that all of them change."""
    experiments = []
    bases = set()
    for path in find_paths(folder, "[!_]*.py"):
        module = load_module(path)
        if not hasattr(module, "rows"):
            continue
        experiment = Experiment(
            name=path.stem,
            changes=getattr(module, "changes", {}),
            evaluation=getattr(module, "evaluation", {}),
            trained=getattr(module, "trained", path.stem),
            rows=tuple(module.rows),
        )
        experiments.append(experiment)
        bases.add(Path(module.BASE))
    require(bool(experiments), f"{folder} holds no configuration with `rows` of a table")
    require(len(bases) == 1, f"{folder}: all configurations must change the same BASE")
    names = [experiment.name for experiment in experiments]
    for experiment in experiments:
        require(
            experiment.trained in names,
            f"{folder / experiment.name}.py: there is no configuration {experiment.trained}",
        )
    # Weights are trained before other experiments score them.
    experiments.sort(key=lambda experiment: experiment.trained != experiment.name)
    return experiments, bases.pop()


def load_published(folder: Path) -> list[TableRow]:
    """The rows of methods that are not implemented here."""
    path = folder / "_published.py"
    return list(load_module(path).rows) if path.is_file() else []


def run_experiment(
    experiment: Experiment, base: PathLike, runs: Path, seed: int, fields: list[str]
) -> None:
    """Train and score an experiment, unless it is done; `fields` change its configuration."""
    workdir = runs / f"{experiment.trained}-seed{seed}"
    out = runs / f"{experiment.name}-seed{seed}"
    trains = experiment.trained == experiment.name
    if trains and not (workdir / "weights.safetensors").is_file():
        options = [*fields, *command_line_options(experiment.changes), "--seed", str(seed)]
        run_command(["train", str(base), "--workdir", str(workdir), *options])
    if not (out / RESULTS).is_file():
        options = command_line_options(PAPER_SCORING)
        options += scoring_options(fields)
        options += command_line_options(experiment.evaluation)  # the last of two wins
        run_command(["eval", "--workdir", str(workdir), "--out", str(out), *options])


def scoring_options(fields: list[str]) -> list[str]:
    """The options, with their values, that `urgt eval` may change."""
    options = []
    keep = False
    for word in fields:
        if word.startswith("--"):
            keep = word.startswith(SCORING_FIELDS)
        if keep:
            options.append(word)
    return options


def run_command(arguments: list[str]) -> None:
    """Run `urgt` in a process of its own, so that each run starts with free devices."""
    command = " ".join(["urgt", *arguments])
    print(f"$ {command}", flush=True)
    done = subprocess.run([sys.executable, "-m", "urgt_jax", *arguments])
    if done.returncode != 0:
        raise UserError(f"{command} failed with exit status {done.returncode}")


def load_scores(runs: Path, name: str, seeds: Sequence[int]) -> list[dict]:
    """The contents of metrics.json of an experiment, for each seed that is done."""
    folders = [runs / f"{name}-seed{seed}" for seed in seeds]
    return [read_results(folder) for folder in folders if (folder / RESULTS).is_file()]


def fill_tables(experiments: list[Experiment], scores: Scores, published: list[TableRow]) -> Tables:
    """The tables with their results, rows in the paper's order."""
    rows = []
    for experiment in experiments:
        rows += [(row, scores[experiment.name]) for row in experiment.rows]
    rows += [(row, []) for row in published]
    rows.sort(key=lambda pair: (pair[0].table, pair[0].order))
    tables: Tables = {}
    for row, seeds in rows:
        cells = {key: fill_cell(key, row, seeds) for key in COLUMNS}
        tables.setdefault(row.table, []).append(FilledRow(row.title, cells))
    return tables


def fill_cell(key: str, row: TableRow, seeds: list[dict]) -> Cell:
    """Our results in a column of a row, and the paper's."""
    column = COLUMNS[key]
    ours = []
    for scores in seeds:
        value = scores.get(row.candidate, {}).get(column.kind, {}).get(column.metric)
        if value is not None:
            ours.append(value)
    return Cell(ours, row.paper.get(key), column.digits)


def shown_columns(rows: list[FilledRow]) -> list[str]:
    """The paper's columns, and our boundary F1 beside its depth; a few if it has no such table."""

    def has_ours(key: str) -> bool:
        return any(row.cells[key].ours for row in rows)

    def has_paper(key: str) -> bool:
        return any(row.cells[key].paper is not None for row in rows)

    keys = [key for key in COLUMNS if has_paper(key)]
    if not keys:
        return [key for key in OWN_COLUMNS if has_ours(key)]
    if "abs_rel" in keys and has_ours("boundary_f1"):
        keys.append("boundary_f1")
    return keys


def table_texts(rows: list[FilledRow]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table as texts."""
    keys = shown_columns(rows)
    header = ["", *(COLUMNS[key].title for key in keys)]
    body = [[row.title, *(str(row.cells[key]) for key in keys)] for row in rows]
    return header, body


def describe_settings(scores: Scores) -> str:
    """The data and the protocol of the scores; empty without scores."""
    for seeds in scores.values():
        if seeds:
            return f"{seeds[0]['data']}; {seeds[0]['protocol']}"
    return ""


def to_markdown(tables: Tables, settings: str) -> str:
    """All tables as Markdown."""
    parts = [NOTE]
    for title, rows in tables.items():
        header, body = table_texts(rows)
        lines = [header, ["---"] * len(header), *body]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {title}\n\n{text}")
    if settings:
        parts.append(settings)
    return "\n\n".join(parts) + "\n"


def to_latex(tables: Tables, settings: str) -> str:
    """All tables as LaTeX that needs the packages booktabs and amsmath."""
    parts = ["% \\usepackage{booktabs,amsmath}"]
    for title, rows in tables.items():
        header, body = table_texts(rows)
        lines = [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{latex_text(f'{title}. {settings}'.strip())}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            latex_row(header),
            "\\midrule",
            *(latex_row(row) for row in body),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
        parts.append("\n".join(lines))
    parts.append(f"% {NOTE}")
    return "\n\n".join(parts) + "\n"


def latex_row(cells: list[str]) -> str:
    """A row of a LaTeX table."""
    return " & ".join(latex_text(cell) for cell in cells) + " \\\\"


def latex_text(text: str) -> str:
    """A text with the characters that LaTeX reads as commands, or does not know, replaced."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_html(tables: Tables, settings: str) -> str:
    """All tables and a plot of their first columns, as a page that needs no other file."""
    contents = []
    for title, rows in tables.items():
        header, body = table_texts(rows)
        plots = []
        for key in shown_columns(rows)[:PLOTTED_COLUMNS]:
            plots.append(
                {"source": svg_source(plot_column(key, rows)), "title": COLUMNS[key].title}
            )
        contents.append({"title": title, "header": header, "rows": body, "plots": plots})
    source = resources.files("urgt_jax.evaluation").joinpath("tables.html").read_text("utf-8")
    template = import_extra("jinja2", "eval").Template(source, autoescape=True)
    return template.render(note=NOTE, tables=contents, settings=settings) + "\n"


def plot_column(key: str, rows: list[FilledRow]) -> "Figure":
    """A line per row: a dot for each of our seeds, a ring for the paper's result."""
    figure = import_extra("matplotlib.figure", "eval").Figure(figsize=(9, 1 + 0.3 * len(rows)))
    axes = figure.subplots()
    for position, row in enumerate(rows):
        cell = row.cells[key]
        axes.plot(cell.ours, [position] * len(cell.ours), "o", color="#d03e62")
        if cell.paper is not None:
            axes.plot([cell.paper], [position], "o", color="black", fillstyle="none")
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"{COLUMNS[key].title}: ours (dots), the paper's (rings)")
    return figure


def svg_source(figure: "Figure") -> str:
    """A figure as the source of an HTML image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_bytes(figure)).decode()
