"""`urgt scale` and `urgt plan`: cost and quality against patches, and training steps on TPUs."""

import argparse
import csv
import math
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config import SIZES, Config, Data
from urgt_jax.config_files import load_config
from urgt_jax.errors import require
from urgt_jax.files import make_folder
from urgt_jax.models.layers import POLICIES
from urgt_jax.scaling import page, points, study, tpu_plan
from urgt_jax.scaling.forward_benchmark import in_own_process
from urgt_jax.scaling.step_benchmark import StepCost, measure_step
from urgt_jax.scaling.study import RESOLUTIONS, Point, StudyTable
from urgt_jax.training import sharding

WHAT = ("memory", "training", "flops", "time", "quality")
STUDY = {  # options that neither a plan nor a training step knows, and what they are else
    "what": ["time"],
    "mesh": ["patch=1"],
    "remat": ["none", "attention", "blocks"],
    "limit": 600.0,
    "weights": None,
    "scenes": 4,
    "resolutions": list(RESOLUTIONS),
    "report": None,
}


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit status 1 if what is planned does not fit."""
    told, fields = _parser().parse_known_args(arguments)
    _settle(told)
    if told.plan:
        return _plan(told, fields)
    _check(told, fields)
    if told.train:
        return _steps(told, fields)
    table = StudyTable(told.out or Path(page.TABLE))
    if told.report:
        make_folder(told.report.absolute().parent)
    for what in told.what:
        _study(told, what, table)
    if told.report:
        print(f"wrote {page.write(told.report, table)}")


def _settle(told: argparse.Namespace) -> None:
    """Fills in what a study was not told; fails where another was told it."""
    given = [f"--{name}" for name in STUDY if getattr(told, name) is not None]
    require(
        not given or not (told.train or told.plan),
        f"{' '.join(given)}: of a study, not of --plan or --train, which take fields of the "
        "configuration (--model.remat, --mesh.patch)",
    )
    for name, value in STUDY.items():
        if getattr(told, name) is None:
            setattr(told, name, value)


def _check(told: argparse.Namespace, fields: list[str]) -> None:
    require(
        not (told.config or told.side or told.largest),
        "--config, --side and --largest go with --plan only (see --help)",
    )
    require(
        told.train or not fields, f"{' '.join(fields)}: only with --plan or --train (see --help)"
    )
    require(min(told.patches) >= 1, f"--patches {min(told.patches)}: there must be at least one")
    require(told.repeat >= 1, f"--repeat {told.repeat}: there must be at least one pass")
    require(told.scenes >= 1, f"--scenes {told.scenes}: there must be at least one")
    require(told.limit > 0, f"--limit {told.limit:g} must be above 0 seconds")
    require(
        "quality" not in told.what or told.weights is not None,
        "quality needs --weights, a run's folder or a weight file",
    )
    for mesh in told.mesh:
        study.shards(mesh)
    for option, path, suffix in (("--out", told.out, ".csv"), ("--report", told.report, ".md")):
        require(
            path is None or path.suffix == suffix, f"{option} {path}: its name must end in {suffix}"
        )


def _study(told: argparse.Namespace, what: str, table: StudyTable) -> None:
    """All points of a kind."""
    sizes, dtype, meshes, resolutions = told.sizes, told.dtype, told.mesh, [""]
    policies = told.remat if what == "training" else [""]
    if what == "quality":
        work, dtype = points.quality(told.weights, told.scenes)
        sizes, meshes, resolutions = [str(told.weights)], ["patch=1"], told.resolutions
    elif what == "time":
        work, meshes = points.timed(told.limit, told.repeat), ["patch=1"]
    else:
        compiled = {"memory": points.memory, "training": points.training}
        work = (compiled | {"flops": points.operations})[what]
    asked = [
        Point(what, size, resolution, patches, mesh, dtype, remat)
        for size in sizes
        for resolution in resolutions
        for mesh in meshes
        for remat in policies
        for patches in told.patches
    ]
    study.run(asked, table, work, told.scenes if what == "quality" else None)


def _steps(told: argparse.Namespace, fields: list[str]) -> None:
    """Measures training steps."""
    if told.out:
        make_folder(told.out.absolute().parent)
        study.read(told.out, tuple(StepCost.__dataclass_fields__), "training steps")
    for size in told.sizes:
        for patches in told.patches:
            cost = _step(told, fields, size, patches)
            print(cost, flush=True)
            if told.out:
                append(told.out, cost)


def _step(told: argparse.Namespace, fields: list[str], size: str, patches: int) -> StepCost:
    side = math.isqrt(patches)
    require(
        side**2 == patches and side <= 4, f"--patches {patches}: a training step has 1, 4, 9 or 16"
    )
    model = replace(SIZES[size], dtype=told.dtype)
    config = override(Config(model=model, data=Data(batch=1)), fields)
    return in_own_process(patches, measure_step, size, config, side, told.repeat)


def append(path: Path, cost: StepCost) -> None:
    """Adds a line to a table of training steps."""
    row = asdict(cost)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def _plan(told: argparse.Namespace, fields: list[str]) -> None:
    """Prints the plan of a training step in Markdown."""
    require(told.config is not None, "--plan needs --config, a file like configs/u4k.py")
    config = override(load_config(told.config), fields)
    side = told.side or max(sharding.block_sides(config))
    try:
        made = (tpu_plan.largest if told.largest else tpu_plan.plan)(told.plan, config, side)
    except tpu_plan.DoesNotFit as error:
        print(error)
        sys.exit(1)
    print(tpu_plan.section(made, shlex.join(["urgt", "scale", *sys.argv[1:]])))


def _parser() -> argparse.ArgumentParser:
    parser = FieldsParser(
        prog="urgt scale",
        description="Tells how memory, operations, time and quality of a forward pass grow with "
        "patches, measures a training step with random weights, or plans one on TPUs.",
        epilog="A plan and a training step take any field of the configuration: --mesh.fsdp 16",
    )
    add = parser.add_argument_group("a study").add_argument
    add("--what", nargs="+", choices=WHAT, help="of a pass, or training: the "
        "memory of a step; else a pass's time")  # fmt: skip
    add("--mesh", nargs="+", metavar="patch=K", help="devices that share the "
        "patches, for memory, training and flops of each")  # fmt: skip
    add("--remat", nargs="+", choices=POLICIES,
        help="what a step of training computes again, for its memory")  # fmt: skip
    add("--limit", type=float, metavar="SECONDS", help="passes that take longer "
        f"are not begun ({STUDY['limit']:g})")  # fmt: skip
    add("--weights", type=Path, metavar="RUN_OR_FILE", help="whose quality is scored")
    add("--scenes", type=int, metavar="N", help="that quality is a mean over "
        f"({STUDY['scenes']})")  # fmt: skip
    add("--resolutions", nargs="+", choices=RESOLUTIONS,
        help="of scenes whose quality is scored; other figures depend on patches only")  # fmt: skip
    add("--report", type=Path, metavar="F.md", help="page to write, with curves beside it")
    add = parser.add_argument_group("a plan").add_argument
    add("--plan", metavar="TOPOLOGY", help="TPUs to compile for, like v5e:16x16 or v5p:4x4x4")
    add("--config", metavar="FILE", help="a file like configs/u4k.py")
    add("--side", type=int, choices=[1, 2, 3, 4], help="M of GridMix (the mix's largest)")
    add("--largest", action="store_true", help="find the largest data.batch that fits")
    add = parser.add_argument_group("a study or a training step").add_argument
    add("--train", action="store_true", help="measure a training step, with any field")
    add("--sizes", nargs="+", choices=SIZES, default=["large"], help="of the refiner")
    add("--patches", nargs="+", type=int, default=[1, 4], metavar="N", help="in the picture")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of activations")
    add("--repeat", type=int, default=1, metavar="N", help="passes, of which the cheapest counts")
    add("--out", type=Path, metavar="F.csv", help=f"table that is added to; a study's is else "
        f"{page.TABLE}")  # fmt: skip
    return parser
