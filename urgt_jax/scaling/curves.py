"""Curves with logarithmic axes as SVG."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COLOURS = ("#2563a8", "#c2410c", "#15803d", "#7c3aed", "#b91c5c", "#7a5c00")
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 560, 40, 370  # of the frame; the legend is on its right
FITTED = 16  # patches from which slopes are fitted
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}"
    ".grid{stroke:#ddd}.frame{fill:none;stroke:#888}.mid{text-anchor:middle}"
    ".end{text-anchor:end}path{fill:none;stroke-width:2}"
)


class Curve(NamedTuple):
    """A line of a chart; x and y above zero."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0
    dashed: bool = False


class Mark(NamedTuple):
    """A place that is told in words."""

    x: float
    y: float
    text: str
    colour: int = 0


def slope(points: Sequence[tuple[float, float]], first: float = FITTED) -> float | None:
    """The exponent of y ~ x^slope by least squares of logarithms; None from fewer than two."""
    kept = np.log([p for p in points if p[0] >= first])
    if len(kept) < 2 or np.ptp(kept[:, 0]) == 0:
        return None
    return float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0])


def chart(title: str, x: str, y: str, curves: Sequence[Curve], marks: Sequence[Mark] = ()) -> str:
    """The chart as a file of its own."""
    across = _Axis([p[0] for c in curves for p in c.points] + [m.x for m in marks], LEFT, RIGHT)
    up = _Axis([p[1] for c in curves for p in c.points] + [m.y for m in marks], BOTTOM, TOP)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}'>",
        f"<style>{STYLE}</style><rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        _text((LEFT + RIGHT) / 2, 24, title, "mid"),
        *(_tick(across.place(v), BOTTOM, v, True) for v in _measured(curves) or across.ticks()),
        *(_tick(LEFT, up.place(v), v, False) for v in up.ticks()),
        f"<rect class='frame' x='{LEFT}' y='{TOP}' width='{RIGHT - LEFT}' "
        f"height='{BOTTOM - TOP}'/>",
        _text((LEFT + RIGHT) / 2, BOTTOM + 40, x, "mid"),
        f"<g transform='translate(16 {(TOP + BOTTOM) / 2}) rotate(-90)'>",
        _text(0, 0, y, "mid") + "</g>",
        *(_line(curve, across, up) for curve in curves),
        *(_key(i, curve) for i, curve in enumerate(curves)),
        *(_mark(mark, across, up) for mark in marks),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _measured(curves: Sequence[Curve]) -> list[float]:
    """Where there are points, if these are few enough to be read."""
    places = sorted({x for curve in curves for x, _ in curve.points})
    return places if len(places) <= 10 else []


class _Axis:
    """Where values lie between two ends, by their logarithms."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        low, high = math.log10(min(values)), math.log10(max(values))
        pad = max(0.04 * (high - low), 0.02)
        self.low, self.high, self.start, self.end = low - pad, high + pad, start, end

    def place(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers inside: as many as can be read."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 2, 5), range(1, 10), np.arange(10, 100) / 10):
            found = [s * 10.0**d for d in decades for s in steps]
            found = [v for v in found if self.low <= math.log10(v) <= self.high]
            if len(found) >= 3:
                return found[:: -(-len(found) // 9)]
        return found


def _tick(x: float, y: float, value: float, across: bool) -> str:
    ends = (x, TOP, x, BOTTOM) if across else (LEFT, y, RIGHT, y)
    line = "<line class='grid' x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}'/>".format(*ends)
    name = f"{value:.4g}" if 1e-3 <= value < 1e5 else f"{value:.0e}".replace("e+", "e")
    return line + (_text(x, y + 18, name, "mid") if across else _text(x - 6, y + 4, name, "end"))


def _line(curve: Curve, across: _Axis, up: _Axis) -> str:
    spots = [(across.place(x), up.place(y)) for x, y in sorted(curve.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3'/>" for x, y in spots)
    colour = COLOURS[curve.colour % len(COLOURS)]
    return f"<path d='{path}' {_stroke(curve)}/><g fill='{colour}'>{dots}</g>"


def _key(number: int, curve: Curve) -> str:
    y = TOP + 14 + 20 * number
    line = f"<path d='M{RIGHT + 14} {y - 4}h26' {_stroke(curve)}/>"
    return line + _text(RIGHT + 48, y, curve.name)


def _stroke(curve: Curve) -> str:
    dashes = " stroke-dasharray='6 4'" * curve.dashed
    return f"stroke='{COLOURS[curve.colour % len(COLOURS)]}'{dashes}"


def _mark(mark: Mark, across: _Axis, up: _Axis) -> str:
    x, y, colour = across.place(mark.x), up.place(mark.y), COLOURS[mark.colour % len(COLOURS)]
    ring = f"<circle cx='{x:.1f}' cy='{y:.1f}' r='7' fill='none' stroke='{colour}'/>"
    return ring + _text(x - 12, y - 2, mark.text, "end")


def _text(x: float, y: float, text: str, kind: str = "start") -> str:
    return f"<text class='{kind}' x='{x:.1f}' y='{y:.1f}'>{html.escape(text)}</text>"
