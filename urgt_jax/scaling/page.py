"""The page of a study: tables of all that is known, the commands that made them, and curves."""

import os
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import jax

from urgt_jax.config import SIZES
from urgt_jax.files import make_folder, write_text
from urgt_jax.hardware import GB, TERA, total_memory
from urgt_jax.scaling.curves import Curve, Mark, chart, slope
from urgt_jax.scaling.points import crossing
from urgt_jax.scaling.study import CHIPS, FLOPS, MEMORY, Point, StudyRow, StudyTable

TABLE = "runs/scaling/scaling.csv"  # of a study that is not told another
Known = list[tuple[Point, StudyRow]]
Spots = list[tuple[float, float]]  # (patches, value)
INTRO = """# How cost and quality grow with the number of patches

A pass encodes every patch on its own, lets all tokens attend to each other across patches, and
runs the heads on every patch on its own. Only attention across patches grows with the square of
the number of patches N; its memory does not, since no matrix of all scores is ever held.
Slopes are exponents of N, fitted from N = 16 on.
"""
ABOUT = {
    "memory": "Bytes that the compiled stages of `predict` hold beside the parameters, as XLA's "
    "memory analysis tells them for a CPU, with the tokens or layers of other patches that wait "
    "meanwhile. Nothing is run and no weights are needed. Attend works on all patches at once; "
    "encode and the heads on a few, while what waits for them grows.",
    "training": "Bytes that a training step on one picture holds beside its state and batch, which "
    "are the arguments, compiled for a CPU and not run. It is gradients, which do not depend on N, "
    "and what the backward pass needs of the forward pass, by what is computed again (remat): "
    "nothing, everything but attention, or all blocks. With the last two the heads are computed "
    "again too, two patches at a time.",
    "flops": "Operations from the model's shape (a multiply-add is two; norms, softmax and "
    "resampling are left out) and the seconds they take at the published peaks of one chip, which "
    "no program reaches.",
    "time": "The cheapest pass through what `predict` runs, with random weights, in a process of "
    "its own: user and system seconds, seconds on the wall, peak of resident memory.",
    "quality": "Means over analytic scenes, with the same weights for every grid and without "
    "training for it; coarse maps beside refined ones. The consistency error (CE) is taken over "
    "the metric's own overlapping windows, whatever the grid; patches do not overlap.",
}
TIMES = {"wall_seconds": ("Time of a pass", "seconds"), "peak_gb": ("Peak of memory", "GB")}
SCORED = {  # title, unit, digits
    "abs_rel": ("AbsRel", "", 4),
    "rmse": ("RMSE", "m", 3),
    "boundary_f1": ("boundary F1", "", 4),
    "ce": ("CE", "m", 4),
    "normal_mean": ("normals' mean", "°", 2),
}
SHARED = (
    "With patch=K the stages are compiled for K devices that share the patches the way training "
    "does, and figures are of one device; `predict` itself runs on one."
)


def write(path: Path, table: StudyTable) -> Path:
    """Writes the page of a table, and its curves into a folder beside it."""
    rows, out = table.rows(), make_folder(path.absolute().with_suffix(""))
    sizes = list(SIZES)
    ranked = sorted(rows, key=lambda p: sizes.index(p.size) if p.size in sizes else len(sizes))
    parts = [INTRO, machine()]
    for what, section in SECTIONS.items():
        known = [(p, rows[p]) for p in ranked if p.what == what]
        if known:
            text, charts = section([one for one in known if "note" not in one[1]])
            parts += [f"## {what.capitalize()}", ABOUT[what], *_commands(known, table), *text]
            for name, svg in charts.items():
                write_text(out / f"{name}.svg", svg)
                parts.append(f"![{name.replace('-', ' ')}]({out.name}/{name}.svg)")
            parts += _refused(known)
    write_text(path, "\n\n".join(part.strip("\n") for part in parts) + "\n")
    return path


def machine() -> str:
    """The machine that this runs on, in a line."""
    return (
        f"Machine: {os.cpu_count()} cores of {_processor()}, {total_memory() / GB:.0f} GB of memory, "
        f"jax {jax.__version__}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else "an unknown processor"


def _commands(known: Known, table: StudyTable) -> list[str]:
    """The commands that fill the table."""
    counts = dict.fromkeys(row.get("scenes") for _, row in known)
    alike = ([one for one in known if one[1].get("scenes") == count] for count in counts)
    return ["\n".join(line for part in alike for line in _commands_of(part, table))]


def _commands_of(known: Known, table: StudyTable) -> list[str]:
    """The same of rows that are means over as many scenes."""
    unique = lambda values: [str(x) for x in dict.fromkeys(values)]  # noqa: E731
    found = []
    whose = lambda p: p.size if p.what == "quality" else ""  # noqa: E731
    for (what, dtype, weights), group in _by(known, lambda p: (p.what, p.dtype, whose(p))):
        points = [point for point, _ in group]
        words = ["--what", what, "--patches", *unique(sorted(p.patches for p in points))]
        if what == "quality":
            words += ["--resolutions", *unique(p.resolution for p in points)]
            words += ["--weights", weights]
            scenes = group[0][1].get("scenes")
            words += ["--scenes", f"{scenes:g}"] if scenes else []
        else:
            words += ["--sizes", *unique(p.size for p in points)]
            words += ["--dtype", dtype] if dtype != "float32" else []
            policies = unique(filter(None, (p.remat for p in points)))
            words += ["--remat", *policies] if policies else []
        meshes = unique(p.mesh for p in points)
        words += ["--mesh", *meshes] if meshes != ["patch=1"] else []
        words += ["--out", str(table.path)] if str(table.path) != TABLE else []
        found.append("    " + shlex.join(["urgt", "scale", *words]))
    return found


def _refused(known: Known) -> list[str]:
    notes = [f"- {_named(p)}, {p.patches} patches: {row['note']}" for p, row in known
             if "note" in row]  # fmt: skip
    return ["Left out:\n\n" + "\n".join(notes)] if notes else []


def _by(known: Known, key: Callable) -> Iterable[tuple[tuple, Known]]:
    """Rows that agree in what `key` takes of their points, in the table's order."""
    order = list(dict.fromkeys(key(point) for point, _ in known))
    ranked = sorted(known, key=lambda one: (order.index(key(one[0])), one[0].patches))
    return [(k, list(group)) for k, group in groupby(ranked, lambda one: key(one[0]))]


def _series(known: Known) -> Iterable[tuple[str, Known]]:
    """Rows that differ in patches only, by what they are called."""
    return _by(known, _named)


def _named(point: Point) -> str:
    words = [point.size, point.dtype if point.dtype != "float32" else "", point.resolution]
    words += [f"remat {point.remat}" if point.remat else ""]
    return " ".join(w for w in [*words, point.mesh if point.shards > 1 else ""] if w)


def _table(head: list[str], body: Iterable[list[str]]) -> str:
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _short(x: object) -> str:
    """Three digits that count."""
    if not isinstance(x, float):
        return "–" if x is None else str(x)
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _line(name: str, spots: Spots, colour: int) -> Curve:
    """A curve that is called by its slope too."""
    found = slope(spots)
    return Curve(name if found is None else f"{name}, slope {found:.2f}", spots, colour)


def _charts(name: str, title: str, unit: str, curves: list[Curve], marks=()) -> dict[str, str]:
    """A chart by its name, if there is anything to show."""
    curves = [curve for curve in curves if curve.points]
    return {name: chart(title, "patches N", unit, curves, marks)} if curves else {}


def _spots(group: Known, key: str) -> Spots:
    """A column over the number of patches, where it is known."""
    return [(float(p.patches), row[key]) for p, row in group if row.get(key, 0) > 0]


def _memory(known: Known):
    text, curves = [], []
    keys = ("encode", "attend", "heads", "temporary", "output", "argument", "held")
    titles = ["N", *keys[:3], "worst stage", "its temporary", "output", "arguments", "held beside"]
    for i, (name, group) in enumerate(_series(known)):
        worst = [(float(p.patches), _worst(row)) for p, row in group]
        unit, prefix = _unit(max(held for _, held in worst))
        body = []
        for p, row in group:
            cells = [_short(row[f"memory_{key}"] / unit) for key in keys]
            body.append([str(p.patches), *cells[:3], row["memory_stage"], *cells[3:]])
        text += [f"### {name}, {prefix}B", _table(titles, body)]
        stages = {stage: _spots(group, f"memory_{stage}") for stage in MEMORY[-3:]}
        text += _growth(stages | {"the worst": worst})
        curves.append(_line(name, [(n, held / GB) for n, held in worst], i))
    text += [SHARED] if any(p.shards > 1 for p, _ in known) else []
    return text, _charts("memory", "Memory of the worst stage", "GB", curves)


def _training(known: Known):
    """A table and a chart for every model, with a column and a curve for every policy."""
    text, charts = [], {}
    for name, alike in _by(known, lambda p: _named(p._replace(remat=""))):
        policies = {
            remat: [(n, x / GB) for n, x in _spots(group, "memory_temporary")]
            for remat, group in _by(alike, lambda p: p.remat)
        }
        arguments = {p.patches: row["memory_argument"] / GB for p, row in alike}
        columns = [arguments, *(dict(spots) for spots in policies.values())]
        body = [[str(n), *(_short(column.get(n)) for column in columns)] for n in arguments]
        named = {f"remat {remat}": spots for remat, spots in policies.items()}
        text += [f"### {name}, GB", _table(["N", "arguments", *named], body), *_growth(named)]
        curves = [_line(policy, spots, i) for i, (policy, spots) in enumerate(named.items())]
        chart_name = f"training-{name.replace(' ', '-')}"
        charts |= _charts(chart_name, f"Memory of a training step, {name}", "GB", curves)
    return text, charts


def _growth(spots: dict[str, Spots]) -> list[str]:
    """How fast each grows, in a sentence."""
    told = {name: slope(found) for name, found in spots.items()}
    parts = [f"{name} as N^{x:.2f}" for name, x in told.items() if x is not None]
    return [f"Memory grows: {', '.join(parts)}."] if parts else []


def _worst(row: StudyRow) -> float:
    return row[f"memory_{row['memory_stage']}"]


def _flops(known: Known):
    text, curves, marks = [], [], []
    titles = ["N", *(name.replace("_", " ") for name in FLOPS), "all",
              *(f"{chip}, s" for chip in CHIPS)]  # fmt: skip
    for i, (name, group) in enumerate(_series(known)):
        unit, prefix = _unit(max(_operations(row) for _, row in group))
        body = []
        for p, row in group:
            parts = [row[f"flops_{key}"] / unit for key in FLOPS]
            cells = [*parts, sum(parts), *(row[f"seconds_{chip}"] for chip in CHIPS)]
            body.append([str(p.patches), *map(_short, cells)])
        square = [(n, x / TERA) for n, x in _spots(group, "flops_across_attention")]
        linear = [(float(p.patches), _linear(row) / TERA) for p, row in group]
        where = crossing(replace(SIZES[group[0][0].size], dtype=group[0][0].dtype))
        marks.append(Mark(where, where * linear[0][1] / linear[0][0], f"N = {where:.0f}", i))
        curves.append(_line(f"{name}: linear", linear, i))
        curves.append(_line(f"{name}: attention", square, i)._replace(dashed=True))
        text += [
            f"### {name}, {prefix}FLOP",
            _table(titles, body),
            "Attention across patches takes as much as everything that grows linearly at "
            f"N = {where:.1f}.",
        ]
    title = "Attention across patches (dashed) and everything linear (solid)"
    return text, _charts("flops", title, "TFLOP", curves, marks)


def _operations(row: StudyRow) -> float:
    return sum(row[f"flops_{key}"] for key in FLOPS)


def _linear(row: StudyRow) -> float:
    return _operations(row) - row["flops_across_attention"]


def _unit(largest: float) -> tuple[float, str]:
    """A power of 1000 in which the largest of some figures is told, and its prefix."""
    powers = {1e12: "T", 1e9: "G", 1e6: "M", 1e3: "k"}
    return next(((unit, prefix) for unit, prefix in powers.items() if largest >= unit), (1.0, ""))


def _time(known: Known):
    keys = ("cpu_seconds", "encode_cpu_seconds", "attend_cpu_seconds", "heads_cpu_seconds",
            "wall_seconds", "compile_seconds", "peak_gb")  # fmt: skip
    titles = ["N", "CPU, s", "encode", "attend", "heads", "wall, s", "compiling, s", "peak, GB"]
    text = []
    for name, group in _series(known):
        body = [[str(p.patches), *(_short(row[key]) for key in keys)] for p, row in group]
        text += [f"### {name}", _table(titles, body)]
    charts = {}
    for key, (title, unit) in TIMES.items():
        curves = [
            _line(name, _spots(group, key), i) for i, (name, group) in enumerate(_series(known))
        ]
        charts |= _charts(f"time-{key.replace('_', '-')}", title, unit, curves)
    return text, charts


def _quality(known: Known):
    titles = ["N", "grid", "scenes", *(", ".join(filter(None, one[:2])) for one in SCORED.values())]
    text = []
    for name, group in _series(known):
        body = [
            [str(p.patches), row["grid"], f"{row['scenes']:g}", *(_both(row, x) for x in SCORED)]
            for p, row in group
        ]
        text += [f"### {name}, coarse → refined", _table(titles, body)]
    charts = {}
    for key, (title, unit, _) in SCORED.items():
        curves = [
            Curve(name, _spots(group, f"refined_{key}"), i)
            for i, (name, group) in enumerate(_series(known))
        ]
        charts |= _charts(f"quality-{key.replace('_', '-')}", f"{title}, refined", unit, curves)
    return text, charts


def _both(row: StudyRow, key: str) -> str:
    """A score of the coarse and of the refined map."""
    values = (row.get(f"{side}_{key}") for side in ("coarse", "refined"))
    return " → ".join("–" if x is None else f"{x:.{SCORED[key][2]}f}" for x in values)


SECTIONS = {
    "memory": _memory, "training": _training, "flops": _flops, "time": _time, "quality": _quality,
}  # fmt: skip
