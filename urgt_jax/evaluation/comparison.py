"""A paired comparison of two evaluations of the same images."""

from typing import NamedTuple

import numpy as np
from etils.epath import Path

from urgt_jax.errors import UserError, require
from urgt_jax.evaluation import results
from urgt_jax.evaluation.report.columns import Column, Scores, measured_columns, value_of
from urgt_jax.evaluation.results import RESULTS
from urgt_jax.evaluation.statistics import bootstrap_intervals

SETTINGS = ("data", "protocol", "resolution")  # of a summary; they must be the same


class Results(NamedTuple):
    """What an evaluation wrote, for its last candidate."""

    folder: Path
    candidate: str
    settings: dict[str, str]
    images: dict[str, Scores]


class Difference(NamedTuple):
    """One metric of two evaluations over the images that have it in both."""

    column: Column
    first: float  # mean
    second: float
    difference: float  # second minus first
    low: float  # of the 95 % interval of the difference
    high: float
    improved: float  # share of the images on which the second is better, percent
    images: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def better(self) -> bool:
        """Whether the second evaluation is better on average."""
        return (self.difference > 0) == self.column.higher_is_better


class Comparison(NamedTuple):
    """Two evaluations over the images that both have scored."""

    first: Results
    second: Results
    names: list[str]  # of the images
    unpaired: int  # images that only one of them has scored
    differences: list[Difference]


def read_results(folder: Path) -> Results:
    """The scores of the last candidate in the metrics.json of a folder."""
    path = folder / RESULTS
    require(path.is_file(), f"{folder} has no {RESULTS}. Pass a folder that urgt eval wrote")
    content = results.read_results(folder)
    try:
        rows = content["per_image"]
        candidate = content["candidates"][-1]
        images = {str(row["name"]): without_null(row[candidate]) for row in rows}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no scores of images. Run urgt eval again") from error
    require(len(images) > 0, f"{path} has no scores of images. Run urgt eval again")
    settings = {name: str(content.get(name, "")) for name in SETTINGS}
    return Results(folder, candidate, settings, images)


def without_null(scores: dict) -> Scores:
    """The scores with NaN where JSON has null."""
    return {
        kind: {name: float("nan") if x is None else float(x) for name, x in values.items()}
        for kind, values in scores.items()
    }


def compare(first: Results, second: Results) -> Comparison:
    """Compare two evaluations of the same data under the same protocol."""
    for name in SETTINGS:
        one = first.settings[name]
        other = second.settings[name]
        require(
            one == other,
            f"the {name} of {first.folder} and {second.folder} differ ({one[:80]!r} and "
            f"{other[:80]!r}): score both with the same one",
        )
    names = [name for name in first.images if name in second.images]
    require(
        len(names) > 0, f"{first.folder} and {second.folder} have no image in common: nothing to do"
    )
    unpaired = len(first.images) + len(second.images) - 2 * len(names)
    one = [first.images[name] for name in names]
    other = [second.images[name] for name in names]
    columns = [column for column in measured_columns(one) if column in measured_columns(other)]
    differences = paired_differences(columns, one, other)
    require(
        len(differences) > 0,
        f"{first.folder} and {second.folder} have no metric in common: nothing to do",
    )
    return Comparison(first, second, names, unpaired, differences)


def paired_differences(
    columns: list[Column], first: list[Scores], second: list[Scores]
) -> list[Difference]:
    """The differences of all metrics, with intervals over the same resamples of images."""
    values = []
    for scores in (first, second):
        rows = [[value_of(image, column) for column in columns] for image in scores]
        values.append(np.array(rows, float).reshape(len(first), len(columns)))
    change = values[1] - values[0]
    intervals = bootstrap_intervals(change)
    differences = []
    for i, column in enumerate(columns):
        both = np.isfinite(change[:, i])
        if not both.any():
            continue
        better = change[both, i] > 0 if column.higher_is_better else change[both, i] < 0
        differences.append(
            Difference(
                column=column,
                first=float(values[0][both, i].mean()),
                second=float(values[1][both, i].mean()),
                difference=float(change[both, i].mean()),
                low=float(intervals[i, 0]),
                high=float(intervals[i, 1]),
                improved=100 * float(better.mean()),
                images=int(both.sum()),
            )
        )
    return differences


def comparison_table(comparison: Comparison, labels: tuple[str, str]) -> str:
    """A table for a terminal: a line per metric."""
    titles = [*labels, "difference", "95 % interval", "improved"]
    widths = [11, 11, 12, 24, 10]
    line = " " * 22
    for title, width in zip(titles, widths, strict=True):
        line += f"{title[-width + 1 :]:>{width}}"
    lines = [line]
    for row in comparison.differences:
        column = row.column
        digits = column.digits
        interval = "–"
        if np.isfinite(row.low):
            interval = f"{row.low:+.{digits}f} to {row.high:+.{digits}f}"
        cells = [
            column.text(row.first),
            column.text(row.second),
            f"{row.difference:+.{digits}f}",
            interval,
            f"{row.improved:.0f} %",
        ]
        label = f"{column.label} {column.arrow}"
        text = f"{label:<22}"
        for cell, width in zip(cells, widths, strict=True):
            text += f"{cell:>{width}}"
        lines.append(text)
    return "\n".join(lines)
