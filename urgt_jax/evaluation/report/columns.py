"""Which scores are shown, how each is written, and the table for a terminal."""

import math
from typing import NamedTuple

Means = dict[str, dict[str, dict[str, float]]]  # side -> "depth", "normal", "pooled" -> score


class Column(NamedTuple):
    """A score as tables show it."""

    kind: str
    key: str
    title: str
    digits: int
    more: bool  # whether more is better
    meaning: str

    @property
    def arrow(self) -> str:
        """Points towards better."""
        return "↑" if self.more else "↓"

    @property
    def label(self) -> str:
        """The title where depth and normals stand in one list."""
        return self.title if self.kind == "depth" else f"{self.kind} {self.title}"

    def text(self, value: float) -> str:
        """The score as written."""
        return number(value, self.digits)


ANGLES = (
    ("mean", "mean °", 2, False, "mean angle to the true normal"),
    ("median", "median °", 2, False, "median angle"),
    ("rmse", "RMSE °", 2, False, "root of the mean squared angle"),
    *((f"below_{t}", f"< {t}° %", 1, True, f"pixels less than {t}° off") for t in
      ("5", "7.5", "11.25", "22.5", "30")),
)  # fmt: skip
COLUMNS = (
    Column("depth", "abs_rel", "AbsRel", 4, False, "mean of |d − g| / g"),
    Column("depth", "sq_rel", "SqRel m", 4, False, "mean of (d − g)² / g"),
    Column("depth", "rmse", "RMSE m", 3, False, "root of the mean squared error"),
    Column("depth", "rmse_log", "RMSE log", 4, False, "the same of log depth"),
    Column("depth", "log10", "log10", 4, False, "mean difference of log₁₀ depth"),
    Column("depth", "silog", "SILog %", 2, False, "deviation of the difference of log depth"),
    Column("depth", "delta1", "δ1", 4, True, "pixels within a factor of 1.25"),
    Column("depth", "delta2", "δ2", 4, True, "within 1.25²"),
    Column("depth", "delta3", "δ3", 4, True, "within 1.25³"),
    Column("depth", "see", "SEE m", 4, False, "soft edge error: metres off at edges of depth"),
    Column("depth", "boundary_f1", "boundary F1", 4, True, "occluding edges found and true"),
    Column("depth", "d3r", "D3R", 4, False, "pairs across discontinuities in the wrong order"),
    Column("depth", "ce", "CE m", 4, False, "how far overlapping patches differ"),
    Column("depth", "ce_disparity", "CE disparity", 5, False, "the same in the model's own unit"),
    Column("depth", "seam", "seam", 5, False, "step of the error across borders of patches"),
    Column("depth", "seam_elsewhere", "seam elsewhere", 5, False, "the same away from borders"),
    Column("depth", "agreement", "agreement °", 2, False, "normals against those of the depth"),
    *(Column("normal", *angle) for angle in ANGLES),
    *(Column("pooled", *angle) for angle in ANGLES),
)


def number(value: float, digits: int) -> str:
    """A number for people; a dash where there is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def value_of(scores: dict[str, dict[str, float]], column: Column) -> float:
    """The score of one side, NaN where it was not measured."""
    return float(scores.get(column.kind, {}).get(column.key, math.nan))


def known(scores: list[dict[str, dict[str, float]]]) -> list[Column]:
    """The columns that have a number in at least one of the scores."""
    return [c for c in COLUMNS if any(math.isfinite(value_of(s, c)) for s in scores)]


def ratio(values: list[float]) -> float:
    """The last value over the first, NaN without two sides."""
    return values[-1] / values[0] if len(values) > 1 and values[0] else math.nan


def table(means: Means, sides: tuple[str, ...]) -> str:
    """The mean scores for a terminal, a line per metric; ratio is the last side over the first."""
    heads = [*sides, "ratio"] if len(sides) > 1 else list(sides)
    lines = [f"{'':<22}" + "".join(f"{head:>11}" for head in heads)]
    for column in known([means[side] for side in sides]):
        values = [value_of(means[side], column) for side in sides]
        cells = [column.text(value) for value in values] + [number(ratio(values), 2)]
        lines.append(
            f"{f'{column.label} {column.arrow}':<22}"
            + "".join(f"{x:>11}" for x in cells[: len(heads)])
        )
    return "\n".join(lines)
