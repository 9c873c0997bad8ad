"""The paper's tables with our figures beside its own."""

import html
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from urgt_jax import config_files
from urgt_jax.config_files import command_line_options
from urgt_jax.errors import UserError, require

# key -> where it stands in metrics.json, title, digits
COLUMNS = {
    "abs_rel": (("depth", "abs_rel"), "AbsRel ↓", 4),
    "delta1": (("depth", "delta1"), "δ1 ↑", 3),
    "rmse": (("depth", "rmse"), "RMSE m ↓", 2),
    "ce": (("depth", "ce"), "CE m ↓", 4),
    "boundary_f1": (("depth", "boundary_f1"), "boundary F1 ↑", 4),
    "mean": (("normal", "mean"), "mean ° ↓", 2),
    "median": (("normal", "median"), "median ° ↓", 2),
    "normal_rmse": (("normal", "rmse"), "RMSE ° ↓", 2),
    "below_5": (("normal", "below_5"), "< 5° % ↑", 2),
    "below_11.25": (("normal", "below_11.25"), "< 11.25° % ↑", 2),
    "below_30": (("normal", "below_30"), "< 30° % ↑", 2),
}
UNPRINTED = ("abs_rel", "ce", "boundary_f1", "mean", "median")  # of a table of our own


@dataclass(frozen=True)
class TableRow:
    """A row of one of the paper's tables, and what the paper printed in it."""

    table: str
    title: str
    paper: dict[str, float] = field(default_factory=dict)
    side: str = "refined"  # which side of the scores; "coarse" is the prior alone
    order: int = 0  # of rows in their table


class TableRun(NamedTuple):
    """A configuration of the folder."""

    name: str
    changes: dict[str, object]  # to the base configuration
    evaluation: dict[str, object]  # changes for scoring alone
    trained: str  # the run whose weights are scored
    rows: tuple[TableRow, ...]


def read(table: Path) -> tuple[list[TableRun], Path]:
    """The configurations of a folder and the one that all of them change."""
    require(table.is_dir(), f"no folder of configurations at {table}")
    files = sorted(p for p in table.glob("*.py") if not p.name.startswith("_"))
    runs, bases = [], set()
    for path in files:
        module = config_files.load_module(path)
        if not hasattr(module, "rows"):
            continue
        bases.add(Path(module.BASE))
        runs.append(
            TableRun(path.stem, getattr(module, "changes", {}), getattr(module, "evaluation", {}),
                getattr(module, "trained", path.stem), tuple(module.rows))
        )  # fmt: skip
    require(bool(runs), f"{table} holds no configuration with `rows` of a table")
    require(len(bases) == 1, f"{table}: all configurations must change the same BASE")
    names = {run.name for run in runs}
    for run in runs:
        require(run.trained in names, f"{table / run.name}.py: no configuration {run.trained}")
    # What others score again comes first.
    return sorted(runs, key=lambda run: run.trained != run.name), bases.pop()


def _published(table: Path) -> list[TableRow]:
    """Rows of methods that are not built here."""
    path = table / "_published.py"
    return list(config_files.load_module(path).rows) if path.is_file() else []


def _make(run: TableRun, base: Path, where: Path, seed: int, shared: list[str]) -> None:
    """Trains and scores a run, as far as that is not done."""
    work, out = where / f"{run.trained}-seed{seed}", where / f"{run.name}-seed{seed}"
    if run.trained == run.name and not (work / "weights.safetensors").is_file():
        changes = [*shared, *command_line_options(run.changes), "--seed", str(seed)]
        _call("train", str(base), "--workdir", str(work), *changes)
    if not (out / "metrics.json").is_file():
        changes = [*_of_evaluation(shared), *command_line_options(run.evaluation)]
        _call("eval", "--workdir", str(work), "--out", str(out), *changes)


def _of_evaluation(shared: list[str]) -> list[str]:
    """The options without those of the model, which the weights have."""
    kept, keep = [], True
    for word in shared:
        if word.startswith("--"):
            keep = word.startswith(("--eval.", "--data.", "--prior."))
        kept += [word] if keep else []
    return kept


def _call(verb: str, *arguments: str) -> None:
    print(f"$ urgt {verb} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "urgt_jax", verb, *arguments])
    if done.returncode:
        raise UserError(f"urgt {verb} {' '.join(arguments)} ended with {done.returncode}")


def _scores(where: Path, name: str, seeds: list[int]) -> list[dict]:
    """What was scored of a run, by seed."""
    files = [where / f"{name}-seed{seed}" / "metrics.json" for seed in seeds]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


class Cell(NamedTuple):
    """Our figures over seeds, and the paper's."""

    ours: list[float]
    paper: float | None
    digits: int

    def __str__(self) -> str:
        shown = "–"
        if self.ours:
            shown = f"{np.mean(self.ours):.{self.digits}f}"
            if len(self.ours) > 1:
                shown += f" ± {np.std(self.ours, ddof=1):.{self.digits}f}"
        return shown if self.paper is None else f"{shown} ({self.paper:.{self.digits}f})"


class Line(NamedTuple):
    """A row with its cells by column."""

    title: str
    cells: dict[str, Cell]


def lines(runs: list[TableRun], found: dict[str, list[dict]], published: list[TableRow]):
    """Tables by their names, each with its lines in the paper's order."""
    rows = [(row, found[run.name]) for run in runs for row in run.rows]
    rows += [(row, []) for row in published]
    tables: dict[str, list[Line]] = {}
    for row, scores in sorted(rows, key=lambda pair: (pair[0].table, pair[0].order)):
        cells = {key: _cell(key, row, scores) for key in COLUMNS}
        tables.setdefault(row.table, []).append(Line(row.title, cells))
    return tables


def _cell(key: str, row: TableRow, scores: list[dict]) -> Cell:
    (kind, metric), _, digits = COLUMNS[key]
    values = [s.get(row.side, {}).get(kind, {}).get(metric) for s in scores]
    return Cell([v for v in values if v is not None], row.paper.get(key), digits)


def _columns(table: str, rows: list[Line]) -> list[str]:
    """What the paper prints in that table, and boundary F1 beside depth where we have it.

    A table that the paper has not shows what we measured of a few.
    """
    printed = [key for key in COLUMNS if any(line.cells[key].paper is not None for line in rows)]
    if not printed:
        return [key for key in UNPRINTED if any(line.cells[key].ours for line in rows)]
    f1 = "abs_rel" in printed and any(line.cells["boundary_f1"].ours for line in rows)
    return printed + ["boundary_f1"] * f1


NOTE = (
    "Ours, mean ± deviation over seeds, and the paper's in brackets. The paper's normal table has "
    "its median and RMSE columns swapped, since an RMSE cannot be below the mean: they stand "
    "right here. Compare within a table: the paper's global RoPE is its pure 4x4, and its "
    "cross-patch attention is its pure 1x1."
)


def markdown(runs: list[TableRun], found: dict[str, list[dict]], published: list[TableRow]) -> str:
    """All tables as Markdown."""
    parts = [NOTE]
    for table, rows in lines(runs, found, published).items():
        keys = _columns(table, rows)
        head = ["", *(COLUMNS[key][1] for key in keys)]
        body = [[line.title, *(str(line.cells[key]) for key in keys)] for line in rows]
        table_rows = [head, ["---"] * len(head), *body]
        parts.append(f"## {table}\n\n" + "\n".join(f"| {' | '.join(r)} |" for r in table_rows))
    first = next((s for scores in found.values() for s in scores), None)
    parts += [f"{first['data']}; {first['protocol']}"] if first else []
    return "\n\n".join(parts) + "\n"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .25rem .7rem; text-align: right }
td:first-child { text-align: left } tr { border-bottom: 1px solid #8884 }
text { font: 12px system-ui, sans-serif; fill: currentColor } svg { color: inherit }
:root { color-scheme: light dark }
"""


def as_html(runs: list[TableRun], found: dict[str, list[dict]], published: list[TableRow]) -> str:
    """All tables as a page that needs no other file, with a plot for each."""
    parts = []
    for table, rows in lines(runs, found, published).items():
        keys = _columns(table, rows)
        head = "".join(f"<th>{html.escape(x)}" for x in ["", *(COLUMNS[k][1] for k in keys)])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(x)}" for x in [line.title, *cells])
            for line in rows
            for cells in [[str(line.cells[key]) for key in keys]]
        )
        plots = "".join(_plot(key, rows) for key in keys[:2])
        parts.append(f"<h2>{html.escape(table)}</h2><table><tr>{head}{body}</table>{plots}")
    return (
        "<!doctype html><meta charset=utf-8><title>urgt_jax: the paper's tables</title>"
        f"<style>{STYLE}</style><h1>The paper's tables</h1><p>{html.escape(NOTE)}</p>"
        + "".join(parts)
        + "\n"
    )


def _plot(key: str, rows: list[Line]) -> str:
    """A line per row: a dot for every seed of ours, a ring for the paper's figure."""
    title, values = COLUMNS[key][1], [v for r in rows for v in _values(r.cells[key])]
    if not values:
        return ""
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low or high), high + 0.05 * (high - low or high)
    place = lambda v: 430 + 400 * (v - low) / (high - low)  # noqa: E731
    marks = []
    for i, row in enumerate(rows):
        y, cell = 40 + 22 * i, row.cells[key]
        marks.append(f"<text x=420 y={y + 4} text-anchor=end>{html.escape(row.title)}</text>")
        marks.append(f"<line x1=430 x2=830 y1={y} y2={y} stroke=currentColor opacity=.15 />")
        marks += [f"<circle cx={place(v):.1f} cy={y} r=5 fill=#d03e62 />" for v in cell.ours]
        if cell.paper is not None:
            ring = "fill=none stroke=currentColor stroke-width=1.5"
            marks.append(f"<circle cx={place(cell.paper):.1f} cy={y} r=5 {ring} />")
    name = f"{html.escape(title)}: ours (dots), the paper's (rings), {low:.3g} to {high:.3g}"
    height = 40 + 22 * len(rows)
    return (
        f"<svg viewBox='0 0 850 {height}' width=850><text x=430 y=16>{name}</text>"
        f"{''.join(marks)}</svg>"
    )


def _values(cell: Cell) -> list[float]:
    return [*cell.ours, *([] if cell.paper is None else [cell.paper])]
