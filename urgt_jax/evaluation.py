"""Scores a refiner, or anybody's maps, on held-out pictures the way the field measures."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from urgt_jax import config as configs
from urgt_jax import grid, metrics, pictures, report, tables
from urgt_jax.checkpoints import SHIPPED
from urgt_jax.config import Config, require
from urgt_jax.data.priors import STRENGTHS
from urgt_jax.data.sources import Picture, Pictures, open_pictures, usual
from urgt_jax.errors import UserError, exit_status
from urgt_jax.files import folder, write_text
from urgt_jax.inference import Refiner, load, split_of
from urgt_jax.journal import Entry, Journal, Scores, origin, packed, unpacked
from urgt_jax.log import Progress
from urgt_jax.metrics import Pooled, Protocol, Truth
from urgt_jax.subjects import Candidate, Predictions, Refined, Subject

EXAMPLES = 6  # pictures on the sheets, at most
PNG_SCALE = 256.0  # PatchFusion's and KITTI's 16-bit depth: 256 steps a metre


class Side(NamedTuple):
    """One side of a scored picture, at the truth's size."""

    scores: Scores
    angles: np.ndarray | None  # how many pixels' normals err by how much
    metres: np.ndarray | None
    normal: np.ndarray | None


class Scored(NamedTuple):
    """What is known about one held-out picture."""

    entry: Entry
    image: np.ndarray
    truth: Truth
    sides: dict[str, Side]


def protocol_of(config: Config) -> Protocol:
    """How depth is compared, as the configuration has it."""
    kind, align = config.prior.kind, config.eval.align
    if align == "prior":
        align = "disparity" if kind == "disparity" else "none"
    return Protocol(kind, align, config.data.max_depth)


def truth_of(picture: Picture, config: Config) -> Truth:
    """What a picture's maps are compared with; normals are those of its depth where none are known.

    Without intrinsics there are none.
    """
    truth = Truth(picture.depth, picture.valid, picture.normal, picture.intrinsics, picture.stereo)
    truth = protocol_of(config).limit(truth)
    if truth.normal is None and truth.intrinsics is not None:
        truth = truth._replace(normal=metrics.true_normals(truth)[0])
    return truth


def score(candidate: Candidate, truth: Truth, config: Config) -> Side:
    """All metrics of one side of a picture."""
    scores: Scores = {"depth": {}, "normal": {}}
    metres, normal, angles = None, None, None
    if candidate.depth is not None:
        metres = metrics.to_metres(candidate.depth, truth, protocol_of(config))
        scores["depth"] = metrics.depth_scores(metres, truth)
        scores["depth"] |= metrics.seams(metres, truth, _windows(metres.shape, config))
        scores["depth"] |= _consistency(candidate, truth, config)
    if candidate.normal is not None and truth.normal is not None:
        normal = pictures.unit(pictures.resized(candidate.normal, truth.depth.shape))
        scores["normal"], angles = metrics.normal_scores(normal, truth)
        if metres is not None and truth.intrinsics is not None:
            scores["depth"]["agreement"] = metrics.agreement(metres, normal, truth)
    return Side(scores, angles, metres, normal)


def _windows(size: tuple[int, int], config: Config) -> grid.Grid:
    return grid.cover(*size, *split_of(size, config), config.eval.overlap)


def _consistency(candidate: Candidate, truth: Truth, config: Config) -> dict[str, float]:
    """How overlapping windows differ: in metres under the whole map's alignment, and in units."""
    if candidate.patches is None:
        return {}
    (windows, patches), protocol = candidate.patches, protocol_of(config)
    limit, found = config.data.max_depth, {}
    if protocol.kind == "disparity":
        found["ce_disparity"] = metrics.consistency(patches, windows.origins, np.inf)
    if protocol.align == "disparity":
        fit = metrics.align(protocol.disparity(candidate.depth), truth.depth, truth.valid)
        patches = fit.depth(protocol.disparity(patches), limit)
    found["ce"] = metrics.consistency(patches, windows.origins, limit)
    return found


@dataclass
class Tally:
    """What has been scored so far; maps are not kept."""

    sides: tuple[str, ...]
    pictures: list[tuple[str, dict[str, Scores]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # name -> why
    sizes: set[tuple[int, int]] = field(default_factory=set)  # of the truths, pixels

    def __post_init__(self) -> None:
        self.pooled = {side: Pooled() for side in self.sides}

    def add(self, entry: Entry) -> None:
        """Notes a picture's scores."""
        self.sizes.add(entry.size)
        self.pictures.append((entry.name, entry.scores))
        for side, text in entry.angles.items():
            self.pooled[side].add(unpacked(text))

    def means(self) -> dict[str, Scores]:
        """The mean over pictures of each metric, and normals pooled over all pixels."""
        return {
            side: {
                **average([scores[side] for _, scores in self.pictures]),
                "pooled": self.pooled[side].scores(),
            }
            for side in self.sides
        }


def average(scores: list[Scores]) -> Scores:
    """The mean over pictures of each metric, without pictures where it is not defined."""
    found: Scores = {}
    for kind in ("depth", "normal"):
        names = dict.fromkeys(name for s in scores for name in s[kind])
        values = {n: np.array([s[kind].get(n, np.nan) for s in scores], float) for n in names}
        found[kind] = {
            n: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan")
            for n, v in values.items()
        }
    return found


def _names(found: Pictures, config: Config) -> list[str]:
    """The pictures that are to be scored."""
    count = min(config.eval.images or len(found), len(found))
    return [found.name(index) for index in range(count)]


def evaluate(
    subject: Subject,
    found: Pictures,
    config: Config,
    tally: Tally,
    noted: dict[str, Entry] | None = None,
) -> Iterator[Scored]:
    """Scores pictures one by one; what cannot be read is noted in the tally, and skipped.

    Of pictures that are `noted` the tally takes what was scored before.
    """
    names, noted = _names(found, config), noted or {}
    done = len(noted)
    progress = Progress("evaluate", len(names), done)
    for index, name in enumerate(names):
        if name in noted:
            tally.add(noted[name])
            continue
        try:
            picture = found.read(index)
            truth = truth_of(picture, config)
            sides = {n: score(c, truth, config) for n, c in subject(name, picture).items()}
        except UserError as error:
            tally.skipped[name] = str(error)
        else:
            entry = _entry(name, truth, sides)
            tally.add(entry)
            yield Scored(entry, picture.image, truth, sides)
        done += 1
        progress.tell(done)


def _entry(name: str, truth: Truth, sides: dict[str, Side]) -> Entry:
    angles = {n: packed(side.angles) for n, side in sides.items() if side.angles is not None}
    return Entry(name, truth.depth.shape, {n: side.scores for n, side in sides.items()}, angles)


Drawn = Callable[[], report.Layers]


class Worst:
    """Keeps pages of the pictures with the largest error, so that the rest costs no disk."""

    def __init__(self, out: Path, side: str, count: int):
        self.out, self.side, self.count = out, side, count
        self.kept: dict[str, float] = {}  # name -> error

    def rank(self, entry: Entry) -> list[str]:
        """Notes a picture if it is among the worst so far; the names of those that no longer are.

        The same in any order, and for a picture that is noted already.
        """
        scores = entry.scores[self.side]
        error = scores["depth"].get("abs_rel", scores["normal"].get("mean", np.nan))
        self.kept[entry.name] = -np.inf if np.isnan(error) else error
        ranked = sorted(self.kept, key=lambda name: (self.kept[name], name), reverse=True)
        for name in ranked[self.count :]:
            del self.kept[name]
        return ranked[self.count :]

    def offer(self, entry: Entry, drawn: Drawn) -> None:
        """Writes the picture's layers if it is among the worst so far."""
        dropped = self.rank(entry)
        if entry.name in self.kept:
            report.write_layers(self.out, entry.name, drawn())
        for name in dropped:
            report.drop_layers(self.out, name)


class Sheets:
    """Keeps the first pictures for the sheets, whole and where maps are hard to get right."""

    def __init__(self):
        self.whole: list[report.Layers] = []
        self.zooms: list[report.Layers] = []

    def add(self, drawn: Drawn, config: Config) -> None:
        """Keeps a picture if it is among the first."""
        if len(self.whole) < EXAMPLES:
            self.whole.append(report.reduced(drawn()))
            self.zooms += report.zooms(drawn(), _windows(drawn().valid.shape, config))

    def write(self, out: Path) -> None:
        """The sheets as examples.png and zooms.png."""
        pictures.write_image(out / "examples.png", report.sheet(self.whole))
        made = {"examples.png": self.whole, "zooms.png": self.zooms}
        made = {name: shown for name, shown in made.items() if shown}
        for name, shown in made.items():
            pictures.write_image(out / name, report.sheet(shown))
        print(f"the first {len(self.whole)} side by side in {out}: {', '.join(made)}")


def layers(scored: Scored) -> report.Layers:
    """The maps of a picture as the report shows them, depth as 1/metres."""
    truth = scored.truth
    shown = {n: s for n, s in scored.sides.items() if n != "smoothed"}
    depth = {n: 1 / s.metres for n, s in shown.items() if s.metres is not None}
    normal = {n: s.normal for n, s in shown.items() if s.normal is not None}
    known = truth.valid
    if normal:
        normal["truth"], known = metrics.true_normals(truth)
    depth["truth"] = np.where(truth.known, 1 / np.maximum(truth.depth, 1e-3), 0).astype(np.float32)
    return report.Layers(scored.image, depth, normal, truth.valid, known)


def main() -> None:
    """The command line of eval.py."""
    told, rest = _parser().parse_known_args()
    if told.table:
        tables.main(told, rest)
        return
    subject, config, out = _subject(told, rest)
    protocol_of(config)  # fails where kind and alignment do not go together
    found = open_pictures(config, config.data.split, coarse=isinstance(subject, Refined))
    journal = Journal(folder(out), origin(subject, config))
    tally, sheets = Tally(subject.sides), Sheets()
    worst = Worst(out, subject.sides[-1], config.eval.examples)
    noted = _noted(journal, _names(found, config), worst)
    for scored in evaluate(subject, found, config, tally, noted):
        report.write_thumbnail(out, scored.entry.name, scored.image)
        drawn = cache(partial(layers, scored))  # at most once, and only where one is to be seen
        worst.offer(scored.entry, drawn)
        sheets.add(drawn, config)
        drawn.cache_clear()  # not to be held while the next picture is scored
        journal.add(scored.entry)  # last: what it names is on disk
    _finish(tally, subject, config, out)
    sheets.write(out)
    journal.remove()


def _noted(journal: Journal, names: list[str], worst: Worst) -> dict[str, Entry]:
    """What need not be scored again; of the report on disk, what belongs to it is kept.

    Maps are not in the journal, so the pictures on the sheets are scored again.
    """
    found = {name: journal.entries[name] for name in names if name in journal.entries}
    for entry in found.values():
        worst.rank(entry)
    report.clear(worst.out, found, worst.kept)
    if found:
        print(f"going on after {len(found)} of {len(names)} pictures: {journal.path}")
    rest = list(found)[EXAMPLES:]
    return {n: found[n] for n in rest if report.kept(worst.out, n, paged=n in worst.kept)}


def _parser() -> argparse.ArgumentParser:
    parser = configs.FieldsParser(
        prog="eval.py",
        description="Scores a trained refiner, or anybody's maps, on held-out pictures.",
        epilog="Any field of the run's configuration can be set: --eval.images 8",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="of the run to score")
    what.add_argument("--weights", type=Path, metavar="FILE", help="a weight file to score")
    what.add_argument("--predictions", type=Path, metavar="DIR", help="saved maps to score")
    what.add_argument("--table", type=Path, metavar="DIR", help="configurations of a paper's rows, "
        "which are trained and scored where they are not yet")  # fmt: skip
    add = parser.add_argument
    add("--data", nargs="+", metavar=("SOURCE", "PATH"), help="the data set: docs/datasets.md")
    add(
        "--kind", choices=("depth", "disparity"), help="of predictions: metres, or relative 1/depth"
    )
    add("--degrade", choices=STRENGTHS, help="how much worse than the truth coarse maps of scenes "
        "are; else as in training")  # fmt: skip
    add("--scale", type=float, help=f"of 16-bit .png predictions: steps a metre ({PNG_SCALE:g})")
    add("--out", type=Path, help="folder for what is made; else the work directory, or NAME_scores")
    tables.add_options(parser)
    return parser


def _degraded(config: Config, strength: str | None) -> Config:
    """The configuration with one of the named strengths of degradation."""
    if not strength:
        return config
    return replace(config, prior=replace(STRENGTHS[strength], kind=config.prior.kind))


def _subject(told: argparse.Namespace, rest: list[str]) -> tuple[Subject, Config, Path]:
    """What is scored, how, and where the scores go."""
    rest = [*configs.data_options(told.data), *rest]
    if told.predictions:
        require(told.kind is not None, "--predictions needs --kind: depth (metres) or disparity")
        require(not told.degrade, "--degrade is for coarse maps that a refiner is given; "
            "--predictions are scored as they are")  # fmt: skip
        config = configs.override(Config(), [*rest, "--prior.kind", told.kind])
        subject = Predictions(told.predictions, told.scale or PNG_SCALE)
        return subject, config, told.out or _beside(told.predictions)
    require(told.kind is None and told.scale is None, "--kind and --scale go with --predictions")
    where = told.workdir or told.weights
    refiner = load(where)
    require(isinstance(refiner, Refiner), f"{where} holds no refiner: its maps are scored with "
        "--predictions")  # fmt: skip
    config = configs.override(_degraded(refiner.config, told.degrade), rest)
    require(
        not told.degrade or config.data.source == "scenes",
        "--degrade is for scenes; of a data set, python -m urgt_jax.fill --degrade makes coarse "
        "maps that --data.priors names",
    )
    require(
        config.model == refiner.config.model,
        "--model fields belong to the trained weights and cannot be set for eval.py",
    )
    refiner = Refiner(refiner.params, config)
    return Refined(refiner, config), config, told.out or told.workdir or _beside(told.weights)


def _beside(path: Path) -> Path:
    path = path.absolute()
    if path.parent == SHIPPED:  # nothing is put among what is installed
        return Path(f"{path.stem}_scores")
    return path.with_name(f"{path.stem if path.is_file() else path.name}_scores")


def _finish(tally: Tally, subject: Subject, config: Config, out: Path) -> None:
    """Prints and writes what was found."""
    for name, why in list(tally.skipped.items())[:5]:
        print(f"skipped {name}: {why}")
    require(bool(tally.pictures), f"none of {len(tally.skipped)} pictures could be scored")
    means, protocol = tally.means(), protocol_of(config)
    summary = {
        "pictures": len(tally.pictures),
        "skipped": tally.skipped,
        "data": _data(config),
        "protocol": str(protocol),
        "resolution": _resolution(tally),
        "patches": _patches(config),
        **means,
    }
    print(report.table(means, tally.sides))
    print(f"mean over {len(tally.pictures)} pictures of {summary['data']}"
        + (f", {len(tally.skipped)} skipped" if tally.skipped else ""))  # fmt: skip
    print(f"{protocol}; {summary['resolution']}; {summary['patches']}")
    known = [*(name for name, _ in tally.pictures), *tally.skipped]
    if isinstance(subject, Predictions) and (extra := subject.unused(known)):
        print(f"{len(extra)} files in {subject.folder} belong to no picture, such as {extra[0]}")
    rows = [{"name": name, **scores} for name, scores in tally.pictures]
    write_text(out / "metrics.json", _json({**summary, "per_picture": rows}))
    page = report.write_pages(out, summary, tally.pictures)
    print(f"wrote {out / 'metrics.json'} and {page}")


def _data(config: Config) -> str:
    data, split = config.data, usual(config.data.source, config.data.split)
    if data.source == "scenes":
        return f"scenes, split {split}, {data.size[0]} x {data.size[1]} pixels"
    return f"{data.source}, split {split}" if split else data.source


def _resolution(tally: Tally) -> str:
    """At which size maps were compared."""
    sizes = sorted(tally.sizes)
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    return f"at the truth's size, {' to '.join(f'{h} x {w}' for h, w in ends)} pixels"


def _patches(config: Config) -> str:
    rows, cols = config.eval.grid
    count = f"{rows} x {cols} patches" if rows else "patches that fit each picture"
    pool = f", approximate: pool {config.eval.pool}" if config.eval.pool > 1 else ""
    return f"{count}, overlap {config.eval.overlap:g}{pool}"


def _json(summary: dict) -> str:
    """Numbers that are not defined become null: NaN is no JSON."""
    known = jax.tree.map(
        lambda x: None if isinstance(x, float) and not np.isfinite(x) else x, summary
    )
    return json.dumps(known, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(exit_status(main))
