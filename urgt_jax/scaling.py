"""Time and memory of a refiner of any size: python -m urgt_jax.scaling --patches 1 4 --sizes large

Every size and number of patches runs in a process of its own, with random weights, through what
`predict` runs, so that the peak of its memory is its own.

--train measures a training step instead, and tells its share of the machine's matrix products.
--plan v5e:16x16 --config configs/u4k.py --mesh.fsdp 16 instead compiles a training step for TPUs
that need not be there, and tells what it would take.
"""

import argparse
import csv
import math
import multiprocessing
import resource
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from urgt_jax import plans, sharding
from urgt_jax.config import SIZES, Config, Data, FieldsParser, Model, load, override, require
from urgt_jax.errors import UserError, exit_status
from urgt_jax.files import folder
from urgt_jax.inference import Refiner
from urgt_jax.log import Progress
from urgt_jax.meter import peak_memory
from urgt_jax.model.families import structure
from urgt_jax.model.refiner import tokens_of
from urgt_jax.step import Stages
from urgt_jax.step_cost import StepCost, measure_step


@dataclass(frozen=True)
class Cost:
    """What one forward pass took; seconds with a CPU in their name are user and system time."""

    size: str
    dtype: str
    parameters: int
    patches: int
    tokens: int
    compile_seconds: float
    cpu_seconds: float
    wall_seconds: float
    encode_cpu_seconds: float
    attend_cpu_seconds: float
    heads_cpu_seconds: float
    peak_gb: float  # resident memory, 10^9 bytes

    def __str__(self) -> str:
        return (
            f"{self.size} {self.dtype}: {self.parameters / 1e6:.0f} M parameters, "
            f"{self.patches} patches, {self.tokens} tokens, compiled in {self.compile_seconds:.1f} "
            f"s, {self.cpu_seconds:.1f} CPU-s (encode {self.encode_cpu_seconds:.1f}, attend "
            f"{self.attend_cpu_seconds:.1f}, heads {self.heads_cpu_seconds:.1f}), "
            f"{self.wall_seconds:.1f} s, peak {self.peak_gb:.2f} GB"
        )


def main() -> None:
    """The command line; exit status 1 if what is planned does not fit."""
    told, fields = _parser().parse_known_args()
    if told.plan:
        return _plan(told, fields)
    require(
        not (told.config or told.side or told.largest),
        "--config, --side and --largest go with --plan only (see --help)",
    )
    require(
        told.train or not fields, f"{' '.join(fields)}: only with --plan or --train (see --help)"
    )
    require(min(told.patches) >= 1, f"--patches {min(told.patches)}: there must be at least one")
    require(told.repeat >= 1, f"--repeat {told.repeat}: there must be at least one pass")
    if told.out:
        folder(told.out.absolute().parent)
    for size in told.sizes:
        for patches in told.patches:
            cost = _step(told, fields, size, patches) if told.train else _pass(told, size, patches)
            print(cost, flush=True)
            if told.out:
                _append(told.out, cost)


def _pass(told: argparse.Namespace, size: str, patches: int) -> Cost:
    return _apart(patches, measure, size, patches, told.dtype, told.repeat)


def _step(told: argparse.Namespace, fields: list[str], size: str, patches: int) -> StepCost:
    side = math.isqrt(patches)
    require(
        side**2 == patches and side <= 4, f"--patches {patches}: a training step has 1, 4, 9 or 16"
    )
    model = replace(SIZES[size], dtype=told.dtype)
    config = override(Config(model=model, data=Data(batch=1)), fields)
    return _apart(patches, measure_step, size, config, side, told.repeat)


def _plan(told: argparse.Namespace, fields: list[str]) -> None:
    """Prints the plan of a training step in Markdown."""
    require(told.config is not None, "--plan needs --config, a file like configs/u4k.py")
    config = override(load(told.config), fields)
    side = told.side or max(sharding.sides(config))
    try:
        made = (plans.largest if told.largest else plans.plan)(told.plan, config, side)
    except plans.DoesNotFit as error:
        print(error)
        sys.exit(1)
    print(plans.section(made, shlex.join(["python", "-m", "urgt_jax.scaling", *sys.argv[1:]])))


def _parser() -> argparse.ArgumentParser:
    parser = FieldsParser(
        prog="python -m urgt_jax.scaling",
        description="Measures time and memory of a forward pass or a training step with random "
        "weights, or plans a training step on TPUs.",
        epilog="A plan and a training step take any field of the configuration: --mesh.fsdp 16",
        allow_abbrev=False,
    )
    add = parser.add_argument_group("a plan").add_argument
    add("--plan", metavar="TOPOLOGY", help="TPUs to compile for, like v5e:16x16 or v5p:4x4x4")
    add("--config", metavar="FILE", help="a file like configs/u4k.py")
    add("--side", type=int, choices=[1, 2, 3, 4], help="M of GridMix (the mix's largest)")
    add("--largest", action="store_true", help="find the largest data.batch that fits")
    add = parser.add_argument_group("a measurement").add_argument
    add("--train", action="store_true", help="of a training step, with any field, not of a pass")
    add("--sizes", nargs="+", choices=SIZES, default=["large"], help="of the refiner")
    add("--patches", nargs="+", type=int, default=[1, 4], metavar="N", help="in the picture")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of activations")
    add("--repeat", type=int, default=1, metavar="N", help="passes, of which the cheapest counts")
    add("--out", type=Path, metavar="F.csv", help="file that a line is added to for each")
    return parser


def _apart(patches: int, measuring: Callable, size: str, *case):
    """The cost, measured in a new process."""
    lack = f"{size} with {patches} patches does not run here: too little memory?"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measuring, size, *case).result()
        except BrokenProcessPool as error:
            raise UserError(f"{lack} The process was killed") from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(f"{lack} {str(error)[:120]}") from error


def measure(size: str, patches: int, dtype: str, repeat: int) -> Cost:
    """The cost of the cheapest of some passes over a picture of that many patches."""
    model = replace(SIZES[size], dtype=dtype)
    name = f"{size}, {patches} patches"
    print(f"{name}: drawing weights", file=sys.stderr, flush=True)
    refiner = Refiner(random_weights(model), Config(model=model))
    parts = [Part(stage) for stage in refiner.stages]
    refiner.stages = Stages(*parts)
    grid = _squarish(patches)
    picture = _picture(grid[0] * model.process[0], grid[1] * model.process[1])
    found = []
    for i in range(repeat):
        for part in parts:
            part.compiling = part.running = np.zeros(2)
        progress = Progress(f"{name}, pass {i + 1} of {repeat}: step", 1)

        def tell(done: int, steps: int) -> None:
            progress.count = steps  # noqa: B023
            progress.tell(done)  # noqa: B023

        before = _clocks()
        refiner(*picture, grid=grid, overlap=0.0, progress=tell)
        compiling = sum(part.compiling for part in parts)
        found.append((_clocks() - before - compiling, compiling[1], [p.running[0] for p in parts]))
    (cpu, wall), _, (encode, attend, heads) = min(found, key=lambda one: one[0][0])
    return Cost(
        size, dtype, sum(x.size for x in jax.tree.leaves(refiner.params)), patches,
        patches * tokens_of(model), found[0][1], cpu, wall, encode, attend, heads, peak_memory(),
    )  # fmt: skip


class Part:
    """A stage of the forward pass that counts its own seconds, and those of its compilation."""

    def __init__(self, stage: Callable):
        self.stage, self.compiled = stage, {}
        self.compiling = self.running = np.zeros(2)  # CPU and wall seconds

    def __call__(self, *args):
        shapes = tuple(x.shape for x in jax.tree.leaves(args))
        before = _clocks()
        if shapes not in self.compiled:
            self.compiled[shapes] = self.stage.lower(*args).compile()
        after = _clocks()
        out = jax.block_until_ready(self.compiled[shapes](*args))
        self.compiling = self.compiling + after - before
        self.running = self.running + _clocks() - after
        return out


def random_weights(model: Model) -> dict:
    """Weights that keep activations near one; the same few draws over and over, which is quick."""
    draws = np.random.default_rng(0).uniform(-1, 1, 1 << 20).astype(np.float32)

    def draw(path, leaf) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return jnp.ones(leaf.shape, jnp.float32)
        fan_in = leaf.shape[-2] if "kernel" in name else 1000
        # Waits, since a copy on its way keeps what it copies: several leaves would be there twice.
        return jax.block_until_ready(jax.device_put(np.resize(draws * fan_in**-0.5, leaf.shape)))

    return jax.tree_util.tree_map_with_path(draw, structure(model)[1])


def _squarish(patches: int) -> tuple[int, int]:
    """Rows and columns of patches, as near to a square as their number allows."""
    rows = max(n for n in range(1, int(patches**0.5) + 1) if patches % n == 0)
    return rows, patches // rows


def _picture(height: int, width: int):
    """A picture of noise, with coarse maps."""
    draws = np.random.default_rng(0)
    image = draws.integers(0, 256, (height, width, 3), np.uint8)
    normal = np.broadcast_to(np.array([0, 0, -1], np.float32), image.shape)
    return image, image[..., 0] / np.float32(255), normal


def _clocks() -> np.ndarray:
    """CPU seconds of this process, and seconds on the wall."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([used.ru_utime + used.ru_stime, time.monotonic()])


def _append(path: Path, cost: Cost | StepCost) -> None:
    row = asdict(cost)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(exit_status(main))
