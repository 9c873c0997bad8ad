"""The log of a run on the terminal: a table with a row for every `train.log_every` steps."""

from typing import NamedTuple

from urgt_jax.progress import format_duration


class Column(NamedTuple):
    """A column: its heading, the name of its value in metrics.jsonl, and how that is written."""

    heading: str
    name: str
    width: int
    form: str


COLUMNS = (
    Column("loss", "loss", 7, ".3g"),
    Column("depth", "depth", 8, ".3g"),
    Column("gradient", "gradient", 9, ".3g"),
    Column("angular", "angular", 8, ".3g"),
    Column("alignment", "alignment", 10, ".3g"),
    Column("norm", "grad_norm", 6, ".2g"),
    Column("patches/s", "patches_per_second", 10, ".3g"),
    Column("MFU", "mfu", 5, ".0%"),
    Column("GB", "memory_gb", 6, ".3g"),
    Column("waited", "waited", 7, ".0%"),
)
LEGEND = (
    "depth, gradient, angular, alignment: terms of the loss. norm: norm of the gradient. waited:",
    "share of the time spent waiting for data, compiler, checkpoint or images. More: metrics.jsonl",
)


class LogTable:
    """Formats the rows of the table. Its columns are those that a row has values for."""

    def __init__(self, steps: int):
        self.steps = steps
        self.first_width = len(f"step {steps}/{steps}")
        self.columns: list[Column] = []

    def lines(self, step: int, values: dict[str, float], seconds_left: float) -> list[str]:
        """The row of a step, after the table's heading if it is the first or has more columns."""
        lines = []
        columns = [column for column in COLUMNS if column.name in values]
        # If all steps of the first row were skipped, it has fewer values than the next ones.
        if len(columns) > len(self.columns):
            self.columns = columns
            headings = [column.heading.rjust(column.width) for column in self.columns]
            lines += [*LEGEND, "".join([" " * self.first_width, *headings, "left".rjust(8)])]
        row = f"step {step}/{self.steps}".ljust(self.first_width)
        for column in self.columns:
            value = values.get(column.name)
            cell = "-" if value is None else format(value, column.form)
            row += cell.rjust(column.width)
        lines.append(row + format_duration(seconds_left).rjust(8))
        return lines
