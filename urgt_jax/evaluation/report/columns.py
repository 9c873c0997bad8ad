"""Which scores a report shows, how each is written, and the table for a terminal."""

import math
from typing import NamedTuple

Scores = dict[str, dict[str, float]]  # "depth", "normal" or "pooled" -> metric -> score


class Column(NamedTuple):
    """A score as tables show it."""

    kind: str  # "depth"; "normal" for the mean over images, "pooled" for the one over all pixels
    key: str
    title: str
    digits: int
    higher_is_better: bool
    meaning: str

    @property
    def arrow(self) -> str:
        """An arrow that points towards better."""
        return "↑" if self.higher_is_better else "↓"

    @property
    def label(self) -> str:
        """The title in a list of both depth and normal scores."""
        return self.title if self.kind == "depth" else f"{self.kind} {self.title}"

    def text(self, value: float) -> str:
        """The score as written."""
        return format_number(value, self.digits)


def _angle_columns(kind: str) -> list[Column]:
    columns = [
        Column(kind, "mean", "mean °", 2, False, "mean angle to the true normal"),
        Column(kind, "median", "median °", 2, False, "median angle to the true normal"),
        Column(kind, "rmse", "RMSE °", 2, False, "root mean squared angle"),
    ]
    for limit in ("5", "7.5", "11.25", "22.5", "30"):
        meaning = f"share of pixels with an angle below {limit}°"
        columns.append(Column(kind, f"below_{limit}", f"< {limit}° %", 1, True, meaning))
    return columns


COLUMNS = (
    Column(
        "depth", "abs_rel", "AbsRel", 4, False, "mean of |d − g| / g, d predicted, g true depth"
    ),
    Column("depth", "sq_rel", "SqRel m", 4, False, "mean of (d − g)² / g"),
    Column("depth", "mae", "MAE m", 3, False, "mean of |d − g|"),
    Column("depth", "rmse", "RMSE m", 3, False, "root mean squared error"),
    Column("depth", "rmse_log", "RMSE log", 4, False, "root mean squared error of log depth"),
    Column("depth", "log10", "log10", 4, False, "mean absolute error of log₁₀ depth"),
    Column("depth", "silog", "SILog %", 2, False, "standard deviation of the error of log depth"),
    Column("depth", "delta1", "δ1", 4, True, "share of pixels within a factor of 1.25"),
    Column("depth", "delta2", "δ2", 4, True, "share of pixels within a factor of 1.25²"),
    Column("depth", "delta3", "δ3", 4, True, "share of pixels within a factor of 1.25³"),
    Column("depth", "see", "SEE m", 4, False, "soft edge error: error in metres at depth edges"),
    Column("depth", "boundary_f1", "boundary F1", 4, True, "F1 score of occlusion boundaries"),
    Column("depth", "boundary_f1_radius1", "F1 radius 1", 4, True, "MoGe's boundary F1"),
    Column("depth", "boundary_f1_radius2", "F1 radius 2", 4, True, "within 2 pixels"),
    Column("depth", "boundary_f1_radius3", "F1 radius 3", 4, True, "within 3 pixels"),
    Column("depth", "boundary_recall", "boundary recall", 4, True, "of the boundary of a matte"),
    Column("depth", "edge_accuracy", "DBE accuracy px", 2, False, "predicted edges to true ones"),
    Column("depth", "edge_completeness", "DBE complete px", 2, False, "true edges to predicted"),
    Column("depth", "plane_flatness", "PE flat cm", 2, False, "deviation of planes from a plane"),
    Column("depth", "plane_orientation", "PE orientation °", 2, False, "angle to the true plane"),
    Column("depth", "d3r", "D3R", 4, False, "disorder of depth across its edges, in metres"),
    Column("depth", "d3r_stretched", "D3R stretched", 4, False, "of depth stretched to [0, 1]"),
    Column("depth", "ord", "ORD", 4, False, "disorder of random pairs, depth stretched to [0, 1]"),
    Column("depth", "ce", "CE m", 4, False, "consistency error: difference of overlapping patches"),
    Column("depth", "ce_disparity", "CE disparity", 5, False, "CE in the unit of the network"),
    Column("depth", "seam", "seam", 5, False, "jump of the error across patch borders"),
    Column("depth", "seam_elsewhere", "seam elsewhere", 5, False, "jump of the error elsewhere"),
    Column("depth", "agreement", "agreement °", 2, False, "angle of normals to those of the depth"),
    Column("depth", "holes", "holes %", 2, False, "scored pixels without an estimate"),
    Column("depth", "edge_width", "edge width px", 2, False, "10 to 90 % of a step, of 480 lines"),
    Column("depth", "edge_displacement", "edge displacement px", 2, False, "of 480 lines, median"),
    Column(
        "depth", "edges_lost", "edges lost %", 1, False, "steps with under 30 % of their contrast"
    ),
    Column("depth", "overshoot", "overshoot %", 1, False, "of the step, at the map's own edges"),
    Column("depth", "drift", "drift %", 2, False, "deviation of the error between blocks"),
    Column("depth", "abs_rel_broad", "AbsRel broad", 4, False, "after a blur of 16 of 480 lines"),
    Column("depth", "abs_rel_fine", "AbsRel fine", 4, False, "what that blur removes"),
    *_angle_columns("normal"),
    *_angle_columns("pooled"),
)


def format_number(value: float, digits: int) -> str:
    """A number for people; a dash for NaN and infinity."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def value_of(scores: Scores, column: Column) -> float:
    """The score in a column; NaN where it was not measured."""
    return float(scores.get(column.kind, {}).get(column.key, math.nan))


def measured_columns(all_scores: list[Scores]) -> list[Column]:
    """The columns that have a number in at least one of the scores."""
    measured = []
    for column in COLUMNS:
        if any(math.isfinite(value_of(scores, column)) for scores in all_scores):
            measured.append(column)
    return measured


def ratios(values: list[float]) -> list[float]:
    """The last value over each of the others; NaN where that is 0."""
    return [values[-1] / value if value else math.nan for value in values[:-1]]


def headings(names: list[str]) -> list[str]:
    """The names of candidates, and headings of the ratios of the last one to the others."""
    if len(names) == 2:
        return [*names, "ratio"]
    return [*names, *(f"/ {name}" for name in names[:-1])]


def interval_text(summary: dict, name: str, column: Column) -> str:
    """The 95 % interval of a candidate's mean, as written; empty if there is none."""
    interval = summary.get("intervals", {}).get(name, {}).get(column.kind, {}).get(column.key)
    if interval is None or not math.isfinite(interval[0]):
        return ""
    return f"{column.text(interval[0])} to {column.text(interval[1])}"


def table(summary: dict, names: tuple[str, ...]) -> str:
    """A table for a terminal: a line per metric, a column per candidate, ratios, the interval.

    Ratios are the last candidate's score over each other's; the interval is the last candidate's.
    """
    titles = headings(list(names))
    with_intervals = bool(summary.get("intervals"))
    lines = [" " * 22 + "".join(f"{title:>11}" for title in titles)]
    if with_intervals:
        lines[0] += f"{'95 % interval':>20}"
    for column in measured_columns([summary[name] for name in names]):
        values = [value_of(summary[name], column) for name in names]
        cells = [column.text(value) for value in values]
        cells += [format_number(value, 2) for value in ratios(values)]
        label = f"{column.label} {column.arrow}"
        line = f"{label:<22}" + "".join(f"{cell:>11}" for cell in cells)
        if with_intervals:
            line += f"{interval_text(summary, names[-1], column):>20}"
        lines.append(line.rstrip())
    return "\n".join(lines)
