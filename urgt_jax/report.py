"""The scores of a refiner as a table for the screen and as one self-contained page."""

import base64
import html
import io

import numpy as np
from PIL import Image

from urgt_jax.pictures import colour_normal, ramp

SIDES = ("coarse", "smoothed", "refined")
# kind, key in the scores, title, digits, whether more is better
COLUMNS = (
    ("depth", "abs_rel", "AbsRel", 4, False),
    ("depth", "rmse", "RMSE m", 3, False),
    ("depth", "delta1", "δ1", 4, True),
    ("depth", "boundary_f1", "boundary F1", 4, True),
    ("depth", "ce", "CE m", 4, False),
    ("normal", "mean", "normal mean °", 2, False),
    ("normal", "median", "median °", 2, False),
    ("normal", "rmse", "RMSE °", 2, False),
    ("normal", "below_5", "< 5° %", 1, True),
    ("normal", "below_11.25", "< 11.25° %", 1, True),
    ("normal", "below_30", "< 30° %", 1, True),
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
       color: #222; }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
figure { margin: 0 0 1.5rem; display: grid; grid-template-columns: repeat(6, 1fr); gap: 4px }
figure div { font-size: 12px; color: #555 } figure img { width: 100%; display: block }
"""


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def _lines(means: dict[str, dict]) -> list[tuple[str, ...]]:
    """Title, coarse, smoothed, refined, and the ratio of refined to coarse, per metric."""
    lines = []
    for kind, key, title, digits, more in COLUMNS:
        values = [means[side][kind][key] for side in SIDES]
        first, last = values[0], values[-1]
        known = first and np.isfinite(first) and np.isfinite(last)
        ratio = last / first if known else float("nan")
        cells = [_number(value, digits) for value in values]
        lines.append((f"{title} {'↑' if more else '↓'}", *cells, _number(ratio, 2)))
    return lines


def table(means: dict[str, dict]) -> str:
    """The scores for a terminal."""
    lines = [("", *SIDES, "ratio"), *_lines(means)]
    return "\n".join(f"{t:<18}" + "".join(f"{x:>10}" for x in cells) for t, *cells in lines)


def rows(image, depths, normals, valid) -> list[list[tuple[str, np.ndarray]]]:
    """Titled pictures of one scene: a row for depth and one for normals."""
    coarse, refined, truth = depths
    low, high = np.percentile(truth, (1, 99))
    shades = [("coarse", coarse), ("refined", refined), ("truth", truth)]
    depth = [("image", image), *((t, ramp(x, low, high)) for t, x in shades)]
    for title, x in shades[:2]:
        error = np.abs(x - truth) / np.maximum(truth, 1e-6) * valid
        depth.append((f"error of {title} (to 20 %)", ramp(error, 0, 0.2)))
    titles = ("coarse", "refined", "truth")
    normal = [(t, colour_normal(x)) for t, x in zip(titles, normals, strict=True)]
    normal.insert(0, ("image", image))
    for title, x in zip(titles[:2], normals[:2], strict=True):
        cos = np.clip((x * normals[2]).sum(-1), -1, 1)
        normal.append(
            (f"error of {title} (to 45°)", ramp(np.degrees(np.arccos(cos)) * valid, 0, 45))
        )
    return [depth, normal]


def sheet(examples: list[list[list[tuple[str, np.ndarray]]]]) -> np.ndarray:
    """All pictures of all rows as one, with white between them."""
    lines = []
    for row in (row for example in examples for row in example):
        padded = [np.pad(x, ((0, 4), (0, 4), (0, 0)), constant_values=255) for _, x in row]
        lines.append(np.concatenate(padded, 1))
    return np.concatenate(lines, 0)


def page(summary: dict, examples: list[list[list[tuple[str, np.ndarray]]]]) -> str:
    """The whole report as HTML that needs no other file."""
    lines = _lines(summary)
    cells = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines
    )
    figures = "".join(_figure(row) for example in examples for row in example)
    return (
        "<!doctype html><meta charset=utf-8><title>urgt_jax: coarse against refined</title>"
        f"<style>{STYLE}</style><h1>Coarse against refined</h1>"
        f"<p>Mean over {summary['pictures']} pictures ({html.escape(summary['data'])}); "
        f"{html.escape(summary['alignment'])}. CE: metres by which overlapping patches differ. "
        "Smoothed: the coarse maps blurred, which needs no picture; ratio: refined over coarse.</p>"
        f"<table><tr><th>metric<th>{'<th>'.join(SIDES)}<th>ratio</tr>"
        f"{cells}</table>{figures}\n"
    )


def _figure(row: list[tuple[str, np.ndarray]]) -> str:
    parts = [f"<div><img src='{_embedded(x)}' alt='{t}'>{t}</div>" for t, x in row]
    return f"<figure>{''.join(parts)}</figure>"


def _embedded(image: np.ndarray) -> str:
    kept = io.BytesIO()
    Image.fromarray(image).save(kept, "PNG")
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()
