"""`urgt eval`: scores a trained refiner, or saved maps, on held-out images."""

import argparse
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from urgt_jax.commands import tables
from urgt_jax.commands.fields import FieldsParser, data_options, override
from urgt_jax.commands.tables import add_options
from urgt_jax.config import Config
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.sources import open_prior_source
from urgt_jax.errors import require
from urgt_jax.evaluation import report
from urgt_jax.evaluation.candidates import CandidateSource, RefinerCandidates, SavedPredictions
from urgt_jax.evaluation.examples import ExampleSheets, WorstImages, layers
from urgt_jax.evaluation.resume import ScoreJournal, evaluation_identity
from urgt_jax.evaluation.run import _finish, _names, _noted, evaluate
from urgt_jax.evaluation.score import protocol_for
from urgt_jax.evaluation.tally import Tally
from urgt_jax.files import make_folder
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.weights.weight_file import SHIPPED

PNG_SCALE = 256.0  # PatchFusion's and KITTI's 16-bit depth: 256 steps a metre


def main(arguments: list[str] | None = None) -> None:
    """The command line of eval.py."""
    told, rest = _parser().parse_known_args(arguments)
    if told.table:
        tables.main(told, rest)
        return
    subject, config, out = _subject(told, rest)
    protocol_for(config)  # fails where kind and alignment do not go together
    found = open_prior_source(
        config, config.data.split, with_priors=isinstance(subject, RefinerCandidates)
    )
    journal = ScoreJournal(make_folder(out), evaluation_identity(subject, config))
    tally, sheets = Tally(subject.sides), ExampleSheets()
    worst = WorstImages(out, subject.sides[-1], told.pages)
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


def _parser() -> argparse.ArgumentParser:
    parser = FieldsParser(
        prog="urgt eval",
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
    add(
        "--pages",
        type=int,
        default=6,
        metavar="N",
        help="worst images that get a page of their own",
    )
    add("--scale", type=float, help=f"of 16-bit .png predictions: steps a metre ({PNG_SCALE:g})")
    add("--out", type=Path, help="folder for what is made; else the work directory, or NAME_scores")
    add_options(parser)
    return parser


def _degraded(config: Config, strength: str | None) -> Config:
    """The configuration with one of the named strengths of degradation."""
    if not strength:
        return config
    return replace(config, prior=replace(STRENGTHS[strength], kind=config.prior.kind))


def _subject(told: argparse.Namespace, rest: list[str]) -> tuple[CandidateSource, Config, Path]:
    """What is scored, how, and where the scores go."""
    rest = [*data_options(told.data), *rest]
    if told.predictions:
        require(told.kind is not None, "--predictions needs --kind: depth (metres) or disparity")
        require(not told.degrade, "--degrade is for coarse maps that a refiner is given; "
            "--predictions are scored as they are")  # fmt: skip
        config = override(Config(), [*rest, "--prior.kind", told.kind])
        subject = SavedPredictions(told.predictions, told.scale or PNG_SCALE)
        return subject, config, told.out or _beside(told.predictions)
    require(told.kind is None and told.scale is None, "--kind and --scale go with --predictions")
    where = told.workdir or told.weights
    refiner = load(where)
    require(isinstance(refiner, Refiner), f"{where} holds no refiner: its maps are scored with "
        "--predictions")  # fmt: skip
    config = override(_degraded(refiner.config, told.degrade), rest)
    require(
        not told.degrade or config.data.source == "scenes",
        "--degrade is for scenes; of a data set, urgt priors --degrade makes coarse "
        "maps that --data.priors_path names",
    )
    require(
        config.model == refiner.config.model,
        "--model fields belong to the trained weights and cannot be set for eval.py",
    )
    refiner = Refiner(refiner.params, config)
    return (
        RefinerCandidates(refiner, config),
        config,
        told.out or told.workdir or _beside(told.weights),
    )


def _beside(path: Path) -> Path:
    path = path.absolute()
    if path.parent == SHIPPED:  # nothing is put among what is installed
        return Path(f"{path.stem}_scores")
    return path.with_name(f"{path.stem if path.is_file() else path.name}_scores")
