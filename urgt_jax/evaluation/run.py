"""Runs an evaluation: scores every image, resumes after an interruption, writes the results."""

import csv
import io
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.config import Config
from urgt_jax.data.sources import PriorSource, default_split, open_prior_source
from urgt_jax.errors import NegativeResult, WrongChoice, check_skipped, import_extra, reason
from urgt_jax.evaluation import examples, report
from urgt_jax.evaluation.candidates import CandidateSource
from urgt_jax.evaluation.examples import ExampleSheets, WorstImages, image_layers
from urgt_jax.evaluation.metrics.normals import PSEUDO_NORMALS
from urgt_jax.evaluation.provenance import provenance_of, write_training_curve
from urgt_jax.evaluation.results import write_results
from urgt_jax.evaluation.resume import JournalEntry, ScoreJournal, Scores, evaluation_identity
from urgt_jax.evaluation.score import (
    ScoredImage,
    Scoring,
    ground_truth,
    journal_entry,
    score,
    scoring_for,
)
from urgt_jax.evaluation.tally import Tally
from urgt_jax.files import write_text
from urgt_jax.folder_lock import FolderLock
from urgt_jax.progress import Progress
from urgt_jax.remote import is_remote


class Evaluation(NamedTuple):
    """The results of an evaluation."""

    summary: dict  # as in metrics.json: mean scores by candidate, data, protocol, skipped images
    unused_files: list[str]  # files of predictions that belong to no image
    written: list[Path]


def run_evaluation(
    source: CandidateSource,
    config: Config,
    out: Path,
    pages: int = 6,
    provenance: dict[str, str] | None = None,
    log: Path | None = None,
    max_skipped: int | None = None,
) -> Evaluation:
    """Score the candidates on the configured data and write the results to the folder `out`.

    The results come with texts on their `provenance`, and with the curve of a training `log`. The
    `pages` images with the largest errors get a page in the report. The same call resumes an
    interrupted evaluation. Raises NegativeResult if no image can be scored, and a UserError if
    more than `max_skipped` images cannot.
    """
    for module in ("jinja2", "skimage.segmentation"):
        import_extra(module, "eval")  # fail now if one is missing, not after hours of scoring
    scoring = scoring_for(config)
    images = open_prior_source(config, config.data.split, with_priors=source.needs_priors)
    names = image_names(images, config.eval.images)
    identity = evaluation_identity(source, config)
    # A store has no locks.
    with nullcontext() if is_remote(out) else FolderLock(out, "--out"):
        journal = ScoreJournal(out, identity)
        worst = WorstImages(source.names[-1], pages)
        sheets = ExampleSheets()
        tally = Tally(source.names)
        resumed = resumable_entries(journal, names, worst, out)
        for scored in score_images(source, images, names, scoring, tally, resumed, max_skipped):
            write_maps(scored, worst, sheets, scoring, out)
            journal.add(scored.entry)  # last: the files that belong to it are complete
        if not tally.images:
            raise NegativeResult(no_image_scored(tally.skipped))
        summary = summarize(tally, config, scoring)
        per_image = [{"name": name, **scores} for name, scores in tally.images]
        results = write_results(out, without_nan({**summary, "per_image": per_image}))
        write_csv(out / "metrics.csv", tally.images, tally.scenes)
        examples_written = sheets.write(out)
        typical = report.typical_image(tally.images)
        if pages and typical not in worst.errors:
            write_typical_layers(source, images, names.index(typical), scoring, out)
        provenance = provenance_of(identity, config) | (provenance or {})
        write_text(out / "provenance.json", json.dumps(provenance, indent=1) + "\n")
        write_training_curve(log, out)
        page = report.write_pages(out, summary, tally.images, typical, provenance)
        written = [results, out / "metrics.csv", page, *examples_written]
        journal.remove()
    scored_names = [name for name, _ in tally.images]
    unused_files = source.unused_files([*scored_names, *tally.skipped])
    return Evaluation(summary, unused_files, written)


def image_names(images: PriorSource, limit: int) -> list[str]:
    """The names of the images to score: the first `limit` ones, or all if it is 0."""
    count = min(limit or len(images), len(images))
    return [images.name(index) for index in range(count)]


def resumable_entries(
    journal: ScoreJournal, names: list[str], worst: WorstImages, out: Path
) -> dict[str, JournalEntry]:
    """The images that need not be scored again; removes files of other images from the report.

    The journal holds no maps, so the images on the sheets are always scored again.
    """
    entries = {name: journal.entries[name] for name in names if name in journal.entries}
    for entry in entries.values():
        worst.rank(entry)
    report.clear(out, entries, worst.errors)
    if entries:
        print(f"resuming after {len(entries)} of {len(names)} images: {journal.path}")
    resumable = {}
    for name in list(entries)[examples.SHEET_IMAGES :]:
        if report.is_written(out, name, with_page=name in worst.errors):
            resumable[name] = entries[name]
    return resumable


def score_images(
    source: CandidateSource,
    images: PriorSource,
    names: list[str],
    scoring: Scoring,
    tally: Tally,
    resumed: dict[str, JournalEntry] | None = None,
    max_skipped: int | None = None,
) -> Iterator[ScoredImage]:
    """Score the images one at a time and add them to the tally.

    An image that cannot be read is recorded in the tally and skipped. A resumed one is added to
    the tally from its entry.
    """
    resumed = resumed or {}
    done = len(resumed)
    progress = Progress("evaluate", len(names), done)
    for index, name in enumerate(names):
        if name in resumed:
            tally.add(resumed[name])
            continue
        try:
            scored = score_image(source, images, index, scoring)
        except WrongChoice:
            raise
        except Exception as error:  # a damaged file raises many kinds of error
            tally.skipped[name] = reason(error)
            check_skipped(len(tally.skipped), max_skipped, f"{name}: {tally.skipped[name]}")
        else:
            tally.add(scored.entry)
            yield scored
        done += 1
        progress.update(done)


def score_image(
    source: CandidateSource, images: PriorSource, index: int, scoring: Scoring
) -> ScoredImage:
    """Score all candidates of one image."""
    name = images.name(index)
    sample = images.read(index)
    truth = ground_truth(sample, scoring.protocol)
    scores = {}
    for candidate_name, candidate in source(name, sample).items():
        scores[candidate_name] = score(candidate, truth, scoring)
    entry = journal_entry(name, truth, scores, images.scene(index))
    return ScoredImage(entry, sample.image, truth, scores)


def write_typical_layers(
    source: CandidateSource, images: PriorSource, index: int, scoring: Scoring, out: Path
) -> None:
    """Write the maps of the image that the report begins with.

    It is only known after all images are scored, so it is scored again.
    """
    scored = score_image(source, images, index, scoring)
    report.write_layers(out, scored.entry.name, image_layers(scored))


def write_maps(
    scored: ScoredImage,
    worst: WorstImages,
    sheets: ExampleSheets,
    scoring: Scoring,
    out: Path,
) -> None:
    """Write the thumbnail of an image, and show its maps if it is one of the worst or first."""
    name = scored.entry.name
    report.write_thumbnail(out, name, scored.image)
    dropped = worst.rank(scored.entry)
    has_page = name in worst.errors
    if has_page or not sheets.full:
        layers = image_layers(scored)
        if has_page:
            report.write_layers(out, name, layers)
        if not sheets.full:
            sheets.add(layers, scoring.windows(layers.valid.shape))
    for dropped_name in dropped:
        report.remove_layers(out, dropped_name)


def no_image_scored(skipped: dict[str, str]) -> str:
    """The error message of an evaluation in which every image was skipped."""
    if not skipped:
        return "the data set holds no image to score"
    name, reason = next(iter(skipped.items()))
    return f"none of {len(skipped)} images could be scored; the first one is {name}: {reason}"


def summarize(tally: Tally, config: Config, scoring: Scoring) -> dict:
    """What metrics.json holds beside the scores of each image."""
    return {
        "images": len(tally.images),
        "skipped": tally.skipped,
        "data": describe_data(config),
        "protocol": str(scoring.protocol),
        "normals": describe_normals(tally),
        "resolution": describe_resolution(tally),
        "patches": describe_patches(config),
        "candidates": list(tally.names),
        **tally.means(),
        "intervals": tally.intervals(),
        "scenes": tally.scene_means(),
    }


def describe_data(config: Config) -> str:
    """The data set and its split in words."""
    data = config.data
    split = default_split(data.source, data.split)
    if data.source == "scenes":
        return f"scenes, split {split}, {data.size[0]} x {data.size[1]} pixels"
    return f"{data.source}, split {split}" if split else data.source


def describe_normals(tally: Tally) -> str:
    """What normals were compared with, in words; empty if there are no scores of normals."""
    texts = {
        "true": "true normals",
        "pseudo": f"pseudo-normals of the true depth ({PSEUDO_NORMALS})",
    }
    parts = []
    for kind, text in texts.items():
        if kind in tally.normals:
            count = f" on {tally.normals[kind]} images" if len(tally.normals) > 1 else ""
            parts.append(text + count)
    return "normals against " + " and ".join(parts) if parts else ""


def describe_resolution(tally: Tally) -> str:
    """The size at which maps were compared, in words."""
    sizes = [f"{height} x {width}" for height, width in sorted(tally.sizes)]
    if len(sizes) > 1:
        return f"at the size of the ground truth, {sizes[0]} to {sizes[-1]} pixels"
    return f"at the size of the ground truth, {sizes[0]} pixels"


def describe_patches(config: Config) -> str:
    """The patches that images were cut into, in words."""
    rows, columns = config.eval.grid
    text = f"{rows} x {columns} patches" if rows else "patches fitted to each image"
    text += f", overlap {config.eval.overlap:g}"
    if config.eval.pool > 1:
        text += f", approximate: pool {config.eval.pool}"
    return text


def write_csv(path: Path, images: list[tuple[str, dict[str, Scores]]], scenes: list[str]) -> None:
    """Write a row for each image and candidate, with a column for each metric."""
    rows = []
    for (name, by_candidate), scene in zip(images, scenes, strict=True):
        for candidate, scores in by_candidate.items():
            row = {"image": name, "scene": scene, "candidate": candidate}
            for kind, values in scores.items():
                for metric, value in values.items():
                    row[f"{kind}_{metric}"] = value
            rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def without_nan(tree: object) -> object:
    """The tree with null for numbers that JSON does not have; keys keep their order."""
    if isinstance(tree, dict):
        return {key: without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_nan(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree
