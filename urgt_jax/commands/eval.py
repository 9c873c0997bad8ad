"""`urgt eval`: scores a refiner, or saved predictions, on held-out images."""

import argparse
import shlex
import sys
from dataclasses import replace

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.fields import FieldsParser, data_options, override
from urgt_jax.commands.parser import add_max_skipped
from urgt_jax.config import Config
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.priors.given import AXES_NAMES
from urgt_jax.errors import printable, require
from urgt_jax.evaluation import comparison_page, report
from urgt_jax.evaluation.candidates import (
    CandidateSource,
    RefinerCandidates,
    SavedPredictions,
)
from urgt_jax.evaluation.comparison import compare, comparison_table, read_results
from urgt_jax.evaluation.results import scores_folder
from urgt_jax.evaluation.run import Evaluation, run_evaluation
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.remote import absolute

PNG_SCALE = 256.0  # steps per metre of 16-bit depth in PatchFusion and KITTI
MUCH_TOO_LARGE = 3.0  # mean relative error of depth that another unit is the likely cause of
ALMOST_NOTHING = 0.01  # difference from a relative error of 1, which a depth of 0 has
SHOWN_SKIPPED = 5  # skipped images whose reason is printed
WRONG_AXES = 90.0  # mean error of normals in degrees that other axes are the likely cause of
PAGES = 6  # default number of images with a page
DESCRIPTION = """
Scores a refiner, or saved predictions of any method, on held-out images. Prints a table and writes
metrics.json, metrics.csv, report.html, examples.png and zooms.png. Run the command again to resume
an interrupted evaluation.
"""
EXAMPLES = """
any field of the configuration is an option too; they are listed below.

examples:
  urgt eval --workdir runs/tiny
  urgt eval --weights weights.safetensors --data unreal4k data/unreal4k --eval.images 8
  urgt eval --predictions maps --kind depth --data folder photos
  urgt eval --compare runs/first runs/second
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs `urgt eval`; the status is 1 if images were skipped."""
    args, fields = make_parser().parse_known_args(arguments)
    if args.compare:
        others = (args.data, args.kind, args.scale, args.axes, args.degrade)
        require(
            not fields and all(option is None for option in others),
            "--compare reads finished evaluations: it can only be combined with --out",
        )
        print_comparison(args)
        return 0
    compile_cache.start(args.cache)
    fields = [*data_options(args.data), *fields]
    if args.predictions:
        source, config, out = open_predictions(args, fields)
    else:
        source, config, out = open_refiner(args, fields)
    words = sys.argv[1:] if arguments is None else arguments
    provenance = {"command": shlex.join(["urgt", "eval", *map(str, words)])}
    if args.weights or args.workdir:
        weights = args.weights or args.workdir
        # Shipped weights and those of a hub have names, not paths.
        provenance["weights"] = str(absolute(weights) if weights.exists() else weights)
    log = args.workdir / "metrics.jsonl" if args.workdir else None
    evaluation = run_evaluation(
        source, config, args.out or out, args.pages, provenance, log, args.max_skipped
    )
    print_results(source.names, evaluation)
    return 1 if evaluation.summary["skipped"] else 0


def make_parser() -> FieldsParser:
    """The options of the command."""
    parser = FieldsParser(
        prog="urgt eval",
        usage="urgt eval (--workdir DIR | --weights FILE | --predictions DIR | --compare A B) "
        "[options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scored = parser.add_mutually_exclusive_group(required=True)
    scored.add_argument(
        "--workdir", type=Path, metavar="DIR", help="work directory of the run to score"
    )
    scored.add_argument("--weights", type=Path, metavar="FILE", help="weight file to score")
    scored.add_argument(
        "--predictions", type=Path, metavar="DIR", help="folder of saved predictions to score"
    )
    scored.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="folders of results to compare image by image: is B better than A?",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        metavar=("SOURCE", "PATH"),
        help="data set and its folder, see docs/data-sets.md (default: as configured)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results (default: the work directory, NAME_scores next to the "
        "weights or predictions, or compared_with_A in B)",
    )
    parser.add_argument(
        "--pages",
        type=int,
        default=PAGES,
        metavar="N",
        help=f"number of images with the largest errors that get a page (default: {PAGES})",
    )
    parser.add_argument(
        "--kind",
        choices=("depth", "disparity"),
        help="unit of the predicted depth: depth (metres) or disparity (relative 1/depth)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        metavar="STEPS",
        help=f"steps per metre of predictions in 16-bit PNG files (default: {PNG_SCALE:g})",
    )
    parser.add_argument(
        "--axes",
        choices=AXES_NAMES,
        help="axes of predicted normals: opencv (x right, y down, z forward), opengl (y up, "
        "z backward) or directx (y up, z forward) (default: opencv)",
    )
    parser.add_argument(
        "--degrade",
        choices=STRENGTHS,
        help="strength of the errors of scenes' coarse maps: those of a good network (weak), of an "
        "older one (middle), or of a phone's depth sensor (strong) (default: as in training)",
    )
    add_max_skipped(parser, "images")
    compile_cache.add_option(parser)
    return parser


def open_predictions(
    args: argparse.Namespace, fields: list[str]
) -> tuple[CandidateSource, Config, Path]:
    """Saved predictions, the configuration to score them by, and the default output folder."""
    require(
        args.kind is not None,
        "--predictions needs --kind: depth (metres) or disparity (relative 1/depth)",
    )
    require(
        args.degrade is None,
        "--degrade changes the coarse maps of a refiner: it cannot be used with --predictions",
    )
    require(args.scale is None or args.scale > 0, f"--scale {args.scale}: it must be above 0")
    config = override(Config(), [*fields, "--prior.kind", args.kind])
    source = SavedPredictions(args.predictions, args.scale or PNG_SCALE, args.axes or "opencv")
    return source, config, scores_folder(args.predictions)


def open_refiner(
    args: argparse.Namespace, fields: list[str]
) -> tuple[CandidateSource, Config, Path]:
    """A trained refiner, the configuration to score it by, and the default output folder."""
    require(
        args.kind is None and args.scale is None and args.axes is None,
        "--kind, --scale and --axes can only be used with --predictions",
    )
    path = args.workdir or args.weights
    refiner = load(path)
    config = refiner.config
    if args.degrade:
        prior = replace(STRENGTHS[args.degrade], kind=config.prior.kind)
        config = replace(config, prior=prior)
    config = override(config, fields)
    require(
        args.degrade is None or config.data.source == "scenes",
        "--degrade is for scenes: for a data set, make coarse maps with urgt priors --degrade "
        "and name their folder with --data.priors_path",
    )
    require(
        config.model == refiner.config.model,
        "--model fields are fixed by the trained weights: leave them out",
    )
    source = RefinerCandidates(Refiner(refiner.params, config), config)
    return source, config, args.workdir or scores_folder(args.weights)


def print_wrong_unit(name: str, scores: dict[str, float]) -> None:
    """Prints the likely cause if depth is several times too large, or almost 0."""
    error = scores.get("abs_rel", 0.0)
    if error > MUCH_TOO_LARGE:
        print(
            f"warning: the depth of {name} is {error + 1:.3g} times the true depth on average: it "
            "is probably not in metres but in millimetres. Divide it by 1000, or pass --scale"
        )
    if abs(error - 1) < ALMOST_NOTHING and scores.get("delta1", 1.0) == 0:
        print(
            f"warning: the depth of {name} is almost 0: it is probably not in metres. Check its "
            "unit, --scale and --kind"
        )


def print_comparison(args: argparse.Namespace) -> None:
    """Compares two folders of results, prints the table and writes the page."""
    first = read_results(args.compare[0])
    second = read_results(args.compare[1])
    comparison = compare(first, second)
    labels = comparison_page.labels(comparison)
    out = args.out or second.folder / f"compared_with_{absolute(first.folder).name}"
    page = comparison_page.write_page(comparison, out)
    print(comparison_table(comparison, labels))
    images = len(comparison.names)
    print(f"{images} images that both have scored; {second.settings['protocol']}")
    if comparison.unpaired:
        print(f"{comparison.unpaired} images were only scored in one folder and were left out")
    print(f"wrote {page}")


def print_results(names: tuple[str, ...], evaluation: Evaluation) -> None:
    """Prints the scores of the candidates and what was skipped, ignored and written."""
    summary = evaluation.summary
    skipped = summary["skipped"]
    for name, reason in list(skipped.items())[:SHOWN_SKIPPED]:
        print(printable(f"skipped {name}: {reason}"))
    print(report.table(summary, names))
    for name in names:
        print_wrong_unit(name, summary[name]["depth"])
    count = f"mean over {summary['images']} images of {summary['data']}"
    if skipped:
        count += f", {len(skipped)} skipped"
    print(count)
    protocol = [summary[name] for name in ("protocol", "normals", "resolution", "patches")]
    print("; ".join(text for text in protocol if text))
    for name in names:
        print_wrong_axes(name, summary[name]["normal"].get("mean", 0.0))
    unused = evaluation.unused_files
    if unused:
        example = printable(unused[0])
        print(f"{len(unused)} prediction files belong to no image, such as {example}")
    print(f"wrote {', '.join(str(path) for path in evaluation.written)}")
    if skipped:
        total = summary["images"] + len(skipped)
        first = printable(next(iter(skipped)))
        print(f"{len(skipped)} of {total} images could not be scored; the first one is {first}")


def print_wrong_axes(name: str, mean: float) -> None:
    """Prints the likely cause if the mean error of a candidate's normals is above 90 degrees."""
    if mean > WRONG_AXES:
        print(
            f"warning: the normals of {name} are off by {mean:.0f} degrees on average: they "
            f"probably have other axes. Try --axes {' or --axes '.join(list(AXES_NAMES)[1:])}"
        )
