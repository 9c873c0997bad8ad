"""Runs an evaluation: scores every image, resumes, and writes the results."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from urgt_jax.config import Config
from urgt_jax.data.sources import PriorSource, default_split
from urgt_jax.errors import UserError, require
from urgt_jax.evaluation import report
from urgt_jax.evaluation.candidates import CandidateSource, SavedPredictions
from urgt_jax.evaluation.examples import EXAMPLES, WorstImages
from urgt_jax.evaluation.metrics import Truth
from urgt_jax.evaluation.resume import Entry, ScoreJournal, pack_counts
from urgt_jax.evaluation.score import ScoredImage, SideScores, ground_truth, protocol_for, score
from urgt_jax.evaluation.tally import Tally
from urgt_jax.files import write_text
from urgt_jax.progress import Progress


def _names(found: PriorSource, config: Config) -> list[str]:
    """The pictures that are to be scored."""
    count = min(config.eval.images or len(found), len(found))
    return [found.name(index) for index in range(count)]


def evaluate(
    subject: CandidateSource,
    found: PriorSource,
    config: Config,
    tally: Tally,
    noted: dict[str, Entry] | None = None,
) -> Iterator[ScoredImage]:
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
            truth = ground_truth(picture, config)
            sides = {n: score(c, truth, config) for n, c in subject(name, picture).items()}
        except UserError as error:
            tally.skipped[name] = str(error)
        else:
            entry = _entry(name, truth, sides)
            tally.add(entry)
            yield ScoredImage(entry, picture.image, truth, sides)
        done += 1
        progress.update(done)


def _entry(name: str, truth: Truth, sides: dict[str, SideScores]) -> Entry:
    angles = {n: pack_counts(side.angles) for n, side in sides.items() if side.angles is not None}
    return Entry(name, truth.depth.shape, {n: side.scores for n, side in sides.items()}, angles)


def _noted(journal: ScoreJournal, names: list[str], worst: WorstImages) -> dict[str, Entry]:
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


def _finish(tally: Tally, subject: CandidateSource, config: Config, out: Path) -> None:
    """Prints and writes what was found."""
    for name, why in list(tally.skipped.items())[:5]:
        print(f"skipped {name}: {why}")
    require(bool(tally.pictures), f"none of {len(tally.skipped)} pictures could be scored")
    means, protocol = tally.means(), protocol_for(config)
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
    if isinstance(subject, SavedPredictions) and (extra := subject.unused(known)):
        print(f"{len(extra)} files in {subject.folder} belong to no picture, such as {extra[0]}")
    rows = [{"name": name, **scores} for name, scores in tally.pictures]
    write_text(out / "metrics.json", _json({**summary, "per_picture": rows}))
    page = report.write_pages(out, summary, tally.pictures)
    print(f"wrote {out / 'metrics.json'} and {page}")


def _data(config: Config) -> str:
    data, split = config.data, default_split(config.data.source, config.data.split)
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
