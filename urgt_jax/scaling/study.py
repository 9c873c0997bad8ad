"""The points of a study and the table that keeps them, so that a study can be resumed."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder, write_text
from urgt_jax.progress import Progress
from urgt_jax.remote import absolute

RESOLUTIONS = {"2k": (1080, 1920), "4k": (2160, 3840), "8k": (4320, 7680)}  # height, width, pixels
CHIPS = ("H100", "v5e", "v5p", "v6e")
# Columns of quality, and where each stands among the scores of an evaluation.
SCORES = {
    "abs_rel": ("depth", "abs_rel"),
    "rmse": ("depth", "rmse"),
    "boundary_f1": ("depth", "boundary_f1"),
    "ce": ("depth", "ce"),
    "normal_mean": ("normal", "mean"),
}
MEMORY = ("stage", "temporary", "output", "argument", "held", "encode", "attend", "heads")
FLOPS = ("encoder", "within", "across_linear", "across_attention", "heads")
TIME = (
    "compile_seconds",
    "cpu_seconds",
    "wall_seconds",
    "encode_cpu_seconds",
    "attend_cpu_seconds",
    "heads_cpu_seconds",
    "encode_seconds",
    "attend_seconds",
    "heads_seconds",
    "peak_gb",
)


class Point(NamedTuple):
    """One model with one number of patches, and what to work out about it."""

    what: str
    size: str  # name of a size; for quality, the path of the weights
    resolution: str  # of the images; empty where figures do not depend on it
    patches: int
    mesh: str
    dtype: str
    remat: str  # of a training step; empty where nothing is trained
    pool: int  # side of the cells whose keys and values are averaged across patches; 1 is exact

    @property
    def shards(self) -> int:
        """Devices that share the patches."""
        return shards(self.mesh)


FIGURES = (
    "parameters",
    "tokens",
    *(f"memory_{name}" for name in MEMORY),
    *(f"flops_{name}" for name in FLOPS),
    *(f"seconds_{name}" for name in CHIPS),
    *TIME,
    "grid",
    "scenes",
    *(f"coarse_{name}" for name in SCORES),
    *(f"refined_{name}" for name in SCORES),
    "note",
)
COLUMNS = (*Point._fields, *FIGURES)
StudyRow = dict[str, object]  # column -> value; a row with only a note says why it has no figures


def shards(mesh: str) -> int:
    """The K of patch=K."""
    match = re.fullmatch(r"patch=([1-9]\d*)", mesh)
    require(match is not None, f"--mesh {mesh}: give patch=K, such as patch=8")
    return int(match[1])


def read_table(path: Path, columns: tuple[str, ...], kind: str) -> csv.DictReader:
    """The rows of a table, none where there is no file; fails on a file with other columns."""
    try:
        text = path.read_text() if path.exists() else ""
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error
    reader = csv.DictReader(io.StringIO(text))
    require(
        not text or tuple(reader.fieldnames or ()) == columns,
        f"{path} is not a table of {kind} (its columns differ): choose another --out",
    )
    return reader


class StudyTable:
    """A CSV file with a row for every point."""

    def __init__(self, path: Path):
        self.path = path
        make_folder(absolute(path).parent)
        self.rows()  # fails before anything is worked out

    def rows(self) -> dict[Point, StudyRow]:
        """All points of the file and their figures; fails on a file of another form."""
        reader = read_table(self.path, COLUMNS, "this study")
        rows = {}
        for row in reader:
            point, figures = self._parse(row, reader.line_num)
            rows[point] = figures
        return rows

    def _parse(self, row: dict, line: int) -> tuple[Point, StudyRow]:
        try:
            point = Point(**{name: row[name] for name in Point._fields})
            point = point._replace(patches=int(point.patches), pool=int(point.pool))
            figures = {name: _number_or_text(row[name]) for name in FIGURES if row[name]}
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path}, line {line} is damaged: remove that line") from error
        return point, figures

    def add(self, point: Point, figures: StudyRow) -> None:
        """Adds a point; rows that another process has added meanwhile stay."""
        rows = self.rows()
        rows[point] = figures
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for other, values in rows.items():
            writer.writerow(other._asdict() | values)
        write_text(self.path, text.getvalue())


def _number_or_text(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def run(
    points: Iterable[Point],
    table: StudyTable,
    work: Callable[[Point], StudyRow],
    scenes: int | None = None,
    again: bool = False,
) -> int:
    """Works out the points that are not in the table yet, or all of them `again`.

    Returns how many have figures now. A point that cannot be worked out gets a note that says why,
    and is tried again the next time. Points of quality are means over `scenes`; those over another
    number are worked out again.
    """
    asked = list(dict.fromkeys(points))
    known = {} if again else table.rows()

    def is_done(point: Point) -> bool:
        row = known.get(point)
        return row is not None and "note" not in row and row.get("scenes") == scenes

    todo = [point for point in asked if not is_done(point)]
    if len(todo) < len(asked):
        print(f"skipped {len(asked) - len(todo)} of {len(asked)} points, which are in {table.path}")
    progress = Progress("scaling, points", len(todo))
    finished = len(asked) - len(todo)
    for i, point in enumerate(todo):
        try:
            figures = work(point)
            finished += 1
            print(f"{describe(point)}: {_one_line(figures)}", flush=True)
        except UserError as error:
            figures = {"note": " ".join(str(error).split())}
            print(f"{describe(point)}: left out: {figures['note']}", flush=True)
        table.add(point, figures)
        progress.update(i + 1)
    return finished


def describe(point: Point) -> str:
    """The point in words."""
    words = [point.what, point.size, point.dtype]
    if point.resolution:
        words.append(point.resolution)
    if point.shards > 1:
        words.append(point.mesh)
    if point.remat:
        words.append(f"remat {point.remat}")
    if point.pool > 1:
        words.append(f"pool {point.pool}")
    return f"{' '.join(words)} {point.patches} patches"


def _one_line(figures: StudyRow) -> str:
    parts = []
    for name, value in figures.items():
        parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)
