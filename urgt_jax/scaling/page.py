"""The page of a study: tables of all results, the commands that made them, and charts."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import jax
from etils.epath import Path

from urgt_jax.config import SIZES
from urgt_jax.files import make_folder, write_text
from urgt_jax.hardware import GB, TERA, total_memory
from urgt_jax.remote import absolute
from urgt_jax.scaling.curves import Curve, Mark, draw_chart, slope
from urgt_jax.scaling.points import crossing
from urgt_jax.scaling.study import CHIPS, FLOPS, Point, StudyRow, StudyTable

TABLE = "runs/scaling/scaling.csv"  # the default table of a study
Results = list[tuple[Point, StudyRow]]
CurvePoints = list[tuple[float, float]]  # (patches, value)
Charts = dict[str, str]  # file name without suffix -> SVG
Section = tuple[list[str], Charts]  # paragraphs of Markdown, and charts
INTRO = """# How cost and quality grow with the number of patches

A forward pass encodes every patch on its own, lets all tokens attend to each other across patches,
and runs the DPT heads on every patch on its own. Only attention across patches grows with the
square of the number of patches N. Its memory does not, because the matrix of all scores is never
held. Slopes are exponents of N, fitted from N = 16 on.
"""
ABOUT = {
    "memory": "Bytes that the compiled stages of `urgt refine` hold beside the parameters, as "
    "XLA's memory analysis reports them for a CPU, with the tokens or layers of other patches "
    "that wait meanwhile. Nothing is run and no weights are needed. Attend works on all patches "
    "at once; encode and the heads work on a few, while what waits for them grows.",
    "training": "Bytes that a training step on one image holds, compiled for a CPU and not run. "
    "The arguments are the state and the batch. The rest is gradients, which do not depend on N, "
    "and what the backward pass needs of the forward pass. That depends on what is recomputed "
    "(remat): nothing, everything but attention, or all blocks. With the last two the heads are "
    "recomputed too, two patches at a time.",
    "flops": "Operations from the model's shape (a multiply-add counts as two; norms, softmax and "
    "resampling are left out), and the seconds they take at the published peak of one chip, which "
    "no program reaches.",
    "time": "The cheapest pass of `urgt refine` with random weights, in a process of its own: user "
    "and system seconds of the host, wall-clock seconds, and the most memory that the device held "
    "(on a CPU, the process).",
    "quality": "Means over analytic scenes, with the same weights for every grid and without "
    "training for it. The coarse maps stand beside the refined ones. The consistency error (CE) is "
    "taken over the metric's own overlapping windows, whatever the grid; patches do not overlap.",
}
TIMES = {"wall_seconds": ("Time of a pass", "seconds"), "peak_gb": ("Peak memory", "GB")}
# Title, unit and digits of each score.
SCORED = {
    "abs_rel": ("AbsRel", "", 4),
    "rmse": ("RMSE", "m", 3),
    "boundary_f1": ("boundary F1", "", 4),
    "ce": ("CE", "m", 4),
    "normal_mean": ("mean normal error", "°", 2),
}
SHARED = (
    "With patch=K the stages are compiled for K devices that share the patches as training does, "
    "and figures are per device; `urgt refine` itself runs on one device."
)


def write(path: Path, table: StudyTable) -> Path:
    """Writes the page of a table, and its charts into a folder beside it."""
    rows = table.rows()
    folder = make_folder(absolute(path).with_suffix(""))
    sizes = list(SIZES)

    def rank(point: Point) -> int:
        return sizes.index(point.size) if point.size in sizes else len(sizes)

    points = sorted(rows, key=rank)
    parts = [INTRO, machine()]
    for what, section in SECTIONS.items():
        results = [(point, rows[point]) for point in points if point.what == what]
        if not results:
            continue
        complete = [(point, row) for point, row in results if "note" not in row]
        text, charts = section(complete)
        parts += [f"## {what.capitalize()}", ABOUT[what], commands(results, table), *text]
        for name, svg in charts.items():
            write_text(folder / f"{name}.svg", svg)
            parts.append(f"![{name.replace('-', ' ')}]({folder.name}/{name}.svg)")
        parts += left_out(results)
    write_text(path, "\n\n".join(part.strip("\n") for part in parts) + "\n")
    return path


def machine() -> str:
    """The machine that this runs on, in one line."""
    return (
        f"Machine: {os.cpu_count()} cores of {_processor()}, {total_memory() / GB:.0f} GB of "
        f"memory, jax {jax.__version__}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "an unknown processor"


def commands(results: Results, table: StudyTable) -> str:
    """The commands that fill the table again, one a line."""
    groups: dict[tuple, list[Point]] = {}
    for point, row in results:
        weights = point.size if point.what == "quality" else ""
        key = (row.get("scenes"), point.what, point.dtype, weights, point.pool)
        groups.setdefault(key, []).append(point)
    return "\n".join(
        f"    {_command(points, scenes, table)}" for (scenes, *_), points in groups.items()
    )


def _command(points: list[Point], scenes: float | None, table: StudyTable) -> str:
    """The command that works out points of one kind, dtype and, for quality, weights."""
    first = points[0]
    words = ["urgt", "scale", "--what", first.what]
    words += ["--patches", *_unique(sorted(point.patches for point in points))]
    if first.what == "quality":
        words += ["--resolutions", *_unique(point.resolution for point in points)]
        words += ["--weights", first.size]
        if scenes:
            words += ["--scenes", f"{scenes:g}"]
    else:
        words += ["--sizes", *_unique(point.size for point in points)]
        if first.dtype != "float32":
            words += ["--dtype", first.dtype]
        if first.remat:
            words += ["--remat", *_unique(point.remat for point in points)]
        if first.pool > 1:
            words += ["--pool", str(first.pool)]
    meshes = _unique(point.mesh for point in points)
    if meshes != ["patch=1"]:
        words += ["--mesh", *meshes]
    if str(table.path) != TABLE:
        words += ["--out", str(table.path)]
    return shlex.join(words)


def _unique(values: Iterable) -> list[str]:
    return [str(value) for value in dict.fromkeys(values)]


def left_out(results: Results) -> list[str]:
    """A list of the points that could not be worked out, and why."""
    lines = []
    for point, row in results:
        if "note" in row:
            lines.append(f"- {series_name(point)}, {point.patches} patches: {row['note']}")
    return ["Left out:\n\n" + "\n".join(lines)] if lines else []


def series_name(point: Point) -> str:
    """What points that differ only in the number of patches are called."""
    words = [point.size]
    if point.dtype != "float32":
        words.append(point.dtype)
    if point.resolution:
        words.append(point.resolution)
    if point.remat:
        words.append(f"remat {point.remat}")
    if point.pool > 1:
        words.append(f"pool {point.pool}")
    if point.shards > 1:
        words.append(point.mesh)
    return " ".join(words)


def series(results: Results) -> dict[str, Results]:
    """The results by series, each in the order of patches."""
    return _grouped(results, series_name)


def _grouped(results: Results, name: Callable[[Point], str]) -> dict[str, Results]:
    groups: dict[str, Results] = {}
    for point, row in results:
        groups.setdefault(name(point), []).append((point, row))
    for group in groups.values():
        group.sort(key=lambda result: result[0].patches)
    return groups


def markdown_table(head: list[str], body: Iterable[list[str]]) -> str:
    """A Markdown table whose columns after the first are right-aligned."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def short(value: object) -> str:
    """A number with three significant digits; a dash for None."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def curve_with_slope(name: str, points: CurvePoints, colour: int) -> Curve:
    """A curve whose name ends in its slope, where it has one."""
    exponent = slope(points)
    label = name if exponent is None else f"{name}, slope {exponent:.2f}"
    return Curve(label, points, colour)


def chart_if_any(
    name: str, title: str, unit: str, curves: list[Curve], marks: Sequence[Mark] = ()
) -> Charts:
    """A chart by its file name, if any curve has points."""
    drawn = [curve for curve in curves if curve.points]
    return {name: draw_chart(title, "patches N", unit, drawn, marks)} if drawn else {}


def column_over_patches(group: Results, column: str) -> CurvePoints:
    """A column against the number of patches, where it is known."""
    points = []
    for point, row in group:
        value = row.get(column, 0)
        if value > 0:
            points.append((float(point.patches), value))
    return points


def memory_section(results: Results) -> Section:
    """Tables of the stages' memory, and a chart of the worst stage."""
    text = []
    curves = []
    keys = ("encode", "attend", "heads", "temporary", "output", "argument", "held")
    titles = ["N", "encode", "attend", "heads", "worst stage"]
    titles += ["its temporary", "output", "arguments", "held beside"]
    for colour, (name, group) in enumerate(series(results).items()):
        worst = [(float(point.patches), _worst_stage(row)) for point, row in group]
        unit, prefix = unit_for(max(size for _, size in worst))
        body = []
        for point, row in group:
            cells = [short(row[f"memory_{key}"] / unit) for key in keys]
            body.append([str(point.patches), *cells[:3], row["memory_stage"], *cells[3:]])
        text += [f"### {name}, {prefix}B", markdown_table(titles, body)]
        stages = {key: column_over_patches(group, f"memory_{key}") for key in keys[:3]}
        text += growth(stages | {"the worst": worst})
        curves.append(curve_with_slope(name, [(n, size / GB) for n, size in worst], colour))
    if any(point.shards > 1 for point, _ in results):
        text.append(SHARED)
    return text, chart_if_any("memory", "Memory of the worst stage", "GB", curves)


def _worst_stage(row: StudyRow) -> float:
    return row[f"memory_{row['memory_stage']}"]


def training_section(results: Results) -> Section:
    """A table and a chart for every model, with a column and a curve for every policy."""
    text = []
    charts = {}
    models = _grouped(results, lambda point: series_name(point._replace(remat="")))
    for name, group in models.items():
        arguments = {point.patches: row["memory_argument"] / GB for point, row in group}
        policies = {}
        for remat, alike in _grouped(group, lambda point: point.remat).items():
            points = column_over_patches(alike, "memory_temporary")
            policies[f"remat {remat}"] = [(n, size / GB) for n, size in points]
        body = []
        for patches, held in arguments.items():
            cells = [short(dict(points).get(patches)) for points in policies.values()]
            body.append([str(patches), short(held), *cells])
        text += [f"### {name}, GB", markdown_table(["N", "arguments", *policies], body)]
        text += growth(policies)
        curves = [
            curve_with_slope(policy, points, colour)
            for colour, (policy, points) in enumerate(policies.items())
        ]
        file_name = f"training-{name.replace(' ', '-')}"
        charts |= chart_if_any(file_name, f"Memory of a training step, {name}", "GB", curves)
    return text, charts


def growth(columns: dict[str, CurvePoints]) -> list[str]:
    """How fast each column grows, in a sentence."""
    parts = []
    for name, points in columns.items():
        exponent = slope(points)
        if exponent is not None:
            parts.append(f"{name} as N^{exponent:.2f}")
    return [f"Memory grows: {', '.join(parts)}."] if parts else []


def flops_section(results: Results) -> Section:
    """Tables of FLOPs by part, and a chart of what grows linearly against attention."""
    text = []
    curves = []
    marks = []
    titles = ["N", *(name.replace("_", " ") for name in FLOPS), "all"]
    titles += [f"{chip}, s" for chip in CHIPS]
    for colour, (name, group) in enumerate(series(results).items()):
        unit, prefix = unit_for(max(_total_flops(row) for _, row in group))
        body = []
        for point, row in group:
            parts = [row[f"flops_{key}"] / unit for key in FLOPS]
            seconds = [row[f"seconds_{chip}"] for chip in CHIPS]
            cells = [short(value) for value in (*parts, sum(parts), *seconds)]
            body.append([str(point.patches), *cells])
        attention = column_over_patches(group, "flops_across_attention")
        attention = [(n, count / TERA) for n, count in attention]
        linear = [(float(point.patches), _linear_flops(row) / TERA) for point, row in group]
        first = group[0][0]
        where = crossing(replace(SIZES[first.size], dtype=first.dtype))
        per_patch = linear[0][1] / linear[0][0]
        marks.append(Mark(where, where * per_patch, f"N = {where:.0f}", colour))
        curves.append(curve_with_slope(f"{name}: linear", linear, colour))
        quadratic = curve_with_slope(f"{name}: attention", attention, colour)
        curves.append(quadratic._replace(dashed=True))
        text += [
            f"### {name}, {prefix}FLOP",
            markdown_table(titles, body),
            "Attention across patches costs as much as everything that grows linearly at "
            f"N = {where:.1f}.",
        ]
    title = "Attention across patches (dashed) and everything linear (solid)"
    return text, chart_if_any("flops", title, "TFLOP", curves, marks)


def _total_flops(row: StudyRow) -> float:
    return sum(row[f"flops_{key}"] for key in FLOPS)


def _linear_flops(row: StudyRow) -> float:
    return _total_flops(row) - row["flops_across_attention"]


def unit_for(largest: float) -> tuple[float, str]:
    """The power of 1000 to write numbers up to `largest` in, and its prefix."""
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if largest >= unit:
            return unit, prefix
    return 1.0, ""


def time_section(results: Results) -> Section:
    """Tables of seconds and memory, and a chart of each."""
    columns = {
        "cpu_seconds": "CPU, s",
        "encode_cpu_seconds": "encode",
        "attend_cpu_seconds": "attend",
        "heads_cpu_seconds": "heads",
        "wall_seconds": "wall, s",
        "compile_seconds": "compiling, s",
        "peak_gb": "peak, GB",
    }
    text = []
    for name, group in series(results).items():
        body = []
        for point, row in group:
            body.append([str(point.patches), *(short(row[column]) for column in columns)])
        text += [f"### {name}", markdown_table(["N", *columns.values()], body)]
    charts = {}
    for column, (title, unit) in TIMES.items():
        curves = [
            curve_with_slope(name, column_over_patches(group, column), colour)
            for colour, (name, group) in enumerate(series(results).items())
        ]
        charts |= chart_if_any(f"time-{column.replace('_', '-')}", title, unit, curves)
    return text, charts


def quality_section(results: Results) -> Section:
    """Tables of scores of coarse and refined maps, and a chart of each refined score."""
    titles = ["N", "grid", "scenes"]
    titles += [f"{title}, {unit}" if unit else title for title, unit, _ in SCORED.values()]
    text = []
    for name, group in series(results).items():
        body = []
        for point, row in group:
            scores = [_coarse_and_refined(row, key) for key in SCORED]
            body.append([str(point.patches), row["grid"], f"{row['scenes']:g}", *scores])
        text += [f"### {name}, coarse → refined", markdown_table(titles, body)]
    charts = {}
    for key, (title, unit, _) in SCORED.items():
        curves = [
            Curve(name, column_over_patches(group, f"refined_{key}"), colour)
            for colour, (name, group) in enumerate(series(results).items())
        ]
        file_name = f"quality-{key.replace('_', '-')}"
        charts |= chart_if_any(file_name, f"{title}, refined", unit, curves)
    return text, charts


def _coarse_and_refined(row: StudyRow, key: str) -> str:
    digits = SCORED[key][2]
    cells = []
    for side in ("coarse", "refined"):
        value = row.get(f"{side}_{key}")
        cells.append("–" if value is None else f"{value:.{digits}f}")
    return " → ".join(cells)


SECTIONS: dict[str, Callable[[Results], Section]] = {
    "memory": memory_section,
    "training": training_section,
    "flops": flops_section,
    "time": time_section,
    "quality": quality_section,
}
