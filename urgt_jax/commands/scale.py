"""`urgt scale`: cost and quality against the number of patches."""

import argparse
import math
from dataclasses import replace

import jax
from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config import DTYPES, SIZES, Config, Data
from urgt_jax.errors import NegativeResult, require
from urgt_jax.files import make_folder
from urgt_jax.models.layers import POLICIES
from urgt_jax.remote import absolute
from urgt_jax.scaling import page, points, study
from urgt_jax.scaling.own_process import in_own_process
from urgt_jax.scaling.step_benchmark import StepCost, append_step, measure_step, read_steps
from urgt_jax.scaling.study import RESOLUTIONS, Point, StudyTable

KINDS = ("time", "memory", "training", "flops", "quality")
ABOUT = """
A study: works out each kind of point for each number of patches and adds it to a table, skipping
points that the table already has. --report writes a page with tables and curves.

--train instead measures a training step on this machine, and its share of the rate of large matrix
products; it takes any field of the configuration.
"""
EXAMPLES = """
examples:
  urgt scale --patches 1 4 --sizes large
  urgt scale --what memory flops --patches 1 4 16 --sizes small large --report scaling.md
  urgt scale --what quality --weights runs/tiny --patches 1 4 16 --resolutions 2k
  urgt scale --train --sizes small --patches 1 9 --model.dtype bfloat16
"""
# Options that only a study has, and their defaults.
STUDY_DEFAULTS = {
    "what": ["time"],
    "mesh": ["patch=1"],
    "remat": ["none", "attention", "blocks"],
    "limit": 600.0,
    "pool": 1,
    "weights": None,
    "scenes": 4,
    "resolutions": list(RESOLUTIONS),
    "report": None,
}


def main(arguments: list[str] | None = None) -> None:
    """The command line of `urgt scale`."""
    args, fields = _parser().parse_known_args(arguments)
    compile_cache.start(args.cache)
    # This process only counts shapes. Those that it starts need the memory of the GPU, which the
    # first process to use it would take.
    jax.config.update("jax_platforms", "cpu")
    _fill_in_defaults(args)
    _check(args, fields)
    if args.train:
        _measure_steps(args, fields)
        return
    table = StudyTable(args.out or Path(page.TABLE))
    if args.report:
        make_folder(absolute(args.report).parent)
    finished = 0
    for kind in args.what:
        finished += _study(args, kind, table)
    if args.report:
        print(f"wrote {page.write(args.report, table)}")
    if finished == 0:
        raise NegativeResult("no point could be worked out; the lines above say why")


def _parser() -> argparse.ArgumentParser:
    parser = FieldsParser(
        prog="urgt scale",
        usage="urgt scale [options]",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--sizes",
        nargs="+",
        choices=SIZES,
        default=["large"],
        help="sizes of the refiner (default: large)",
    )
    add(
        "--patches",
        nargs="+",
        type=int,
        default=[1, 4],
        metavar="N",
        help="numbers of patches (default: 1 4)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="dtype of activations (default: float32)",
    )
    add(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="passes or steps, of which the cheapest counts (default: 1)",
    )
    add(
        "--out",
        type=Path,
        metavar="F.csv",
        help=f"table to add to (default for a study: {page.TABLE})",
    )
    add(
        "--profile",
        type=Path,
        metavar="DIR",
        help="also write a profile of a pass or step, and print its costliest kernels",
    )
    add("--train", action="store_true", help="measure a training step instead")
    add = parser.add_argument_group("a study").add_argument
    add(
        "--what",
        nargs="+",
        choices=KINDS,
        help="what to study: time, memory, FLOPs or quality of a forward pass, or the memory of a "
        "training step (default: time)",
    )
    add(
        "--mesh",
        nargs="+",
        metavar="patch=K",
        help="devices that share the patches, for memory, training and flops (default: patch=1)",
    )
    add(
        "--remat",
        nargs="+",
        choices=POLICIES,
        help="what a training step recomputes (default: none attention blocks)",
    )
    add(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="do not start a pass that would take longer (default: 600)",
    )
    add(
        "--pool",
        type=int,
        metavar="K",
        help="pool keys and values over K x K tokens across patches, for time (default: 1)",
    )
    add("--weights", type=Path, metavar="RUN|FILE", help="weights whose quality is scored")
    add(
        "--scenes",
        type=int,
        metavar="N",
        help="scenes that quality is averaged over (default: 4)",
    )
    add(
        "--resolutions",
        nargs="+",
        choices=RESOLUTIONS,
        help=f"resolutions of these scenes (default: {' '.join(RESOLUTIONS)})",
    )
    add("--report", type=Path, metavar="F.md", help="page to write, with its curves beside it")
    compile_cache.add_option(parser)
    return parser


def _fill_in_defaults(args: argparse.Namespace) -> None:
    """Sets what was left out of a study; fails if --train was given options of a study."""
    chosen = [f"--{name}" for name in STUDY_DEFAULTS if getattr(args, name) is not None]
    require(
        not args.train or not chosen,
        f"{' '.join(chosen)} cannot be combined with --train, which takes fields of the "
        "configuration instead (--model.remat, --mesh.patch)",
    )
    for name, value in STUDY_DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _check(args: argparse.Namespace, fields: list[str]) -> None:
    require(args.train or not fields, f"{' '.join(fields)}: only with --train (see --help)")
    require(min(args.patches) >= 1, f"--patches {min(args.patches)}: at least one is needed")
    require(args.repeat >= 1, f"--repeat {args.repeat}: at least one pass is needed")
    require(args.pool >= 1, f"--pool {args.pool} must be at least 1: 1 is exact")
    require(args.scenes >= 1, f"--scenes {args.scenes}: at least one is needed")
    require(args.limit > 0, f"--limit {args.limit:g} must be above 0 seconds")
    require(
        "quality" not in args.what or args.weights is not None,
        "--what quality needs --weights, a run's folder or a weight file",
    )
    for mesh in args.mesh:
        study.shards(mesh)
    require(
        args.profile is None or not args.profile.exists(),
        f"--profile {args.profile} exists already: choose another folder",
    )
    _check_suffix("--out", args.out, ".csv")
    _check_suffix("--report", args.report, ".md")


def _check_suffix(option: str, path: Path | None, suffix: str) -> None:
    require(
        path is None or path.suffix == suffix, f"{option} {path}: its name must end in {suffix}"
    )


def _study(args: argparse.Namespace, kind: str, table: StudyTable) -> int:
    """Works out all points of a kind; returns how many have figures."""
    sizes = args.sizes
    dtype = args.dtype
    meshes = args.mesh
    resolutions = [""]
    policies = [""]
    pool = 1
    scenes = None
    if kind == "quality":
        work, dtype = points.quality(args.weights, args.scenes)
        sizes = [str(args.weights)]
        meshes = ["patch=1"]
        resolutions = args.resolutions
        scenes = args.scenes
    elif kind == "time":
        work = points.timed(args.limit, args.repeat, args.profile)
        meshes = ["patch=1"]
        pool = args.pool
    elif kind == "training":
        work = points.training
        policies = args.remat
    elif kind == "memory":
        work = points.memory
    else:
        work = points.operations
    asked = [
        Point(kind, size, resolution, patches, mesh, dtype, remat, pool)
        for size in sizes
        for resolution in resolutions
        for mesh in meshes
        for remat in policies
        for patches in args.patches
    ]
    # A profile is wanted of every pass, also of those whose times are known.
    again = kind == "time" and args.profile is not None
    return study.run(asked, table, work, scenes, again)


def _measure_steps(args: argparse.Namespace, fields: list[str]) -> None:
    """Measures a training step for every size and number of patches."""
    if args.out:
        make_folder(absolute(args.out).parent)
        read_steps(args.out)  # fails before anything is measured
    for size in args.sizes:
        for patches in args.patches:
            cost = _measure_step(args, fields, size, patches)
            print(cost, flush=True)
            if args.out:
                append_step(args.out, cost)


def _measure_step(args: argparse.Namespace, fields: list[str], size: str, patches: int) -> StepCost:
    side = math.isqrt(patches)
    require(
        side**2 == patches and side <= 4,
        f"--patches {patches}: a training step has 1, 4, 9 or 16 patches",
    )
    model = replace(SIZES[size], dtype=args.dtype)
    config = override(Config(model=model, data=Data(batch=1)), fields)
    what = f"a training step of {size} with {patches} patches"
    return in_own_process(what, measure_step, size, config, side, args.repeat, args.profile)
