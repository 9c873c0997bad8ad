"""Charts with logarithmic axes, as SVG."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from urgt_jax.errors import import_extra

FITTED_FROM = 16  # number of patches from which slopes are fitted


class Curve(NamedTuple):
    """A line of a chart; x and y are above zero."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


class Mark(NamedTuple):
    """A point of a chart with a text beside it."""

    x: float
    y: float
    text: str
    colour: int = 0


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """The exponent of y ~ x^slope, by least squares of logarithms; None for fewer than two x."""
    fitted = np.log([point for point in points if point[0] >= FITTED_FROM])
    if len(fitted) < 2 or np.ptp(fitted[:, 0]) == 0:
        return None
    return float(np.polyfit(fitted[:, 0], fitted[:, 1], 1)[0])


def draw_chart(
    title: str, x_label: str, y_label: str, curves: Sequence[Curve], marks: Sequence[Mark] = ()
) -> str:
    """The chart as the text of an SVG file; the same curves give the same bytes."""
    matplotlib = import_extra("matplotlib", "eval")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "urgt_jax", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(color="0.87")
        for curve in curves:
            x, y = zip(*sorted(curve.points), strict=True)
            style = "--" if curve.dashed else "-"
            axes.plot(x, y, style, color=f"C{curve.colour}", marker="o", ms=4, label=curve.name)
        for mark in marks:
            ring = {"marker": "o", "ms": 10, "mfc": "none", "color": f"C{mark.colour}"}
            axes.plot([mark.x], [mark.y], **ring)
            axes.annotate(
                mark.text, (mark.x, mark.y), (-10, 8), textcoords="offset points", ha="right"
            )
        _label_measured(axes, curves)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _label_measured(axes, curves: Sequence[Curve]) -> None:
    """Labels the x axis where there are points, if these are few enough to be read."""
    from matplotlib.ticker import NullLocator

    measured = sorted({x for curve in curves for x, _ in curve.points})
    if len(measured) <= 10:
        axes.set_xticks(measured, labels=[f"{x:g}" for x in measured])
        axes.xaxis.set_minor_locator(NullLocator())
