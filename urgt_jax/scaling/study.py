"""A study's points and the table they are kept in, so that one that was killed goes on."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder, write_text
from urgt_jax.progress import Progress

RESOLUTIONS = {"2k": (1080, 1920), "4k": (2160, 3840), "8k": (4320, 7680)}  # pixels
CHIPS = ("H100", "v5e", "v5p", "v6e")
SCORES = {  # column -> where it stands among the scores
    "abs_rel": ("depth", "abs_rel"),
    "rmse": ("depth", "rmse"),
    "boundary_f1": ("depth", "boundary_f1"),
    "ce": ("depth", "ce"),
    "normal_mean": ("normal", "mean"),
}
MEMORY = ("stage", "temporary", "output", "argument", "held", "encode", "attend", "heads")
FLOPS = ("encoder", "within", "across_linear", "across_attention", "heads")
TIME = (
    "compile_seconds", "cpu_seconds", "wall_seconds", "encode_cpu_seconds", "attend_cpu_seconds",
    "heads_cpu_seconds", "peak_gb",
)  # fmt: skip


class Point(NamedTuple):
    """What is asked of one model with one number of patches."""

    what: str
    size: str  # of the model; for quality the path of its weights
    resolution: str  # of the pictures; empty where figures do not depend on it
    patches: int
    mesh: str
    dtype: str
    remat: str  # of a training step; empty where nothing is trained

    @property
    def shards(self) -> int:
        """Devices among which the patches are shared."""
        return shards(self.mesh)


FIGURES = (
    "parameters", "tokens",
    *(f"memory_{name}" for name in MEMORY),
    *(f"flops_{name}" for name in FLOPS),
    *(f"seconds_{name}" for name in CHIPS),
    *TIME,
    "grid", "scenes",
    *(f"{side}_{name}" for side in ("coarse", "refined") for name in SCORES),
    "note",
)  # fmt: skip
COLUMNS = (*Point._fields, *FIGURES)
StudyRow = dict[str, object]  # column -> value; a note alone says why there are no others


def shards(mesh: str) -> int:
    """The K of patch=K."""
    named = re.fullmatch(r"patch=([1-9]\d*)", mesh)
    require(bool(named), f"--mesh {mesh}: give patch=K, such as patch=8")
    return int(named[1])


def read(path: Path, columns: tuple[str, ...], kind: str) -> csv.DictReader:
    """The rows of a table, none where there is no file; fails on a file of other columns."""
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
    """A CSV file with a row for every point; a point that was refused may be asked again."""

    def __init__(self, path: Path):
        self.path = path
        make_folder(path.absolute().parent)
        self.rows()  # fails before anything is worked out

    def rows(self) -> dict[Point, StudyRow]:
        """What is known; fails on a file of another form."""
        reader = read(self.path, COLUMNS, "this study")
        return dict(self._row(row, reader.line_num) for row in reader)

    def _row(self, row: dict, line: int) -> tuple[Point, StudyRow]:
        try:
            key = Point(**{n: row[n] for n in Point._fields})
            key = key._replace(patches=int(key.patches))
            return key, {n: _value(row[n]) for n in FIGURES if row[n]}
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path}, line {line} is damaged: take that line out") from error

    def add(self, point: Point, figures: StudyRow) -> None:
        """Adds a point, beside what others have added meanwhile."""
        rows = self.rows() | {point: figures}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(point._asdict() | figures for point, figures in rows.items())
        write_text(self.path, text.getvalue())


def _value(told: str) -> object:
    for kind in (int, float):
        try:
            return kind(told)
        except ValueError:
            pass
    return told


def run(
    points: Iterable[Point],
    table: StudyTable,
    work: Callable[[Point], StudyRow],
    scenes: int | None = None,
) -> None:
    """Works out what is not in the table, as a mean over that many scenes where there are any.

    Why a point is refused becomes its note.
    """
    points, known = list(dict.fromkeys(points)), table.rows()
    done = lambda row: "note" not in row and row.get("scenes") == scenes  # noqa: E731
    todo = [p for p in points if p not in known or not done(known[p])]
    if len(todo) < len(points):
        print(f"{len(points) - len(todo)} of {len(points)} points are in {table.path}: skipped")
    progress = Progress("scaling, points", len(todo))
    for i, point in enumerate(todo):
        try:
            figures = work(point)
            print(f"{title(point)}: {_brief(figures)}", flush=True)
        except UserError as error:
            figures = {"note": " ".join(str(error).split())}
            print(f"{title(point)}: refused: {figures['note']}", flush=True)
        table.add(point, figures)
        progress.update(i + 1)


def title(point: Point) -> str:
    """The point in words."""
    where = [point.resolution] * bool(point.resolution) + [point.mesh] * (point.shards > 1)
    where += [f"remat {point.remat}"] * bool(point.remat)
    return " ".join([point.what, point.size, point.dtype, *where, f"{point.patches} patches"])


def _brief(figures: StudyRow) -> str:
    return ", ".join(
        f"{name} {x:.4g}" if isinstance(x, float) else f"{name} {x}" for name, x in figures.items()
    )
