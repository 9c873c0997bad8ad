"""What a training step takes on a TPU slice, from compiling it ahead of time on any machine."""

import contextlib
import importlib.util
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from urgt_jax import hardware
from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix
from urgt_jax.data.priors.units import DisparityFit
from urgt_jax.data.sources import PriorSample
from urgt_jax.errors import UserError, require
from urgt_jax.hardware import GB, GIB, TERA, Chip
from urgt_jax.images import grid
from urgt_jax.models import flops
from urgt_jax.models.apply import Batch
from urgt_jax.progress import format_duration
from urgt_jax.scaling import hlo_costs
from urgt_jax.training import sharding
from urgt_jax.training.step import abstract_state, state_shardings, train_step

EXAMPLES = "name one like v5e:16x16, v5p:4x4x4 or v6e:4x4"
USABLE = 15.75 / 16  # the share of HBM that the compiler gives to a program on a v5e
OVERFLOW = re.compile(r"\(([\d.]+[KMG])\) exceeds available HBM \(([\d.]+[KMG])\)")
TELL = 30  # seconds between signs of life while the compiler is at work


@dataclass(frozen=True)
class DeviceMemory:
    """What one device holds, bytes."""

    parameters: float
    optimiser: float
    batch: float
    peak: float  # with activations, gradients and what is gathered

    @property
    def work(self) -> float:
        """What is there only during a step."""
        return self.peak - self.parameters - self.optimiser - self.batch


@dataclass(frozen=True)
class StepPlan:
    """A training step on a slice; times are estimates from published peaks."""

    topology: str
    chip: Chip  # what one device can do
    config: Config
    mesh: dict[str, int]
    side: int  # M of GridMix
    memory: DeviceMemory
    needed: float  # operations a device needs for a step
    executed: float  # operations that it does
    traffic: dict[str, hlo_costs.Traffic]
    hbm: float  # bytes to and from memory
    compiling: float  # seconds

    @property
    def batch(self) -> int:
        """Images in a step."""
        return self.config.data.images(self.side)

    @property
    def seconds(self) -> dict[str, float]:
        """How long a device is busy with each at least."""
        sent = sum(x.sent for x in self.traffic.values())
        return {
            "compute": self.executed / self.chip.peak(self.config.model.dtype),
            "memory": self.hbm / self.chip.hbm_bandwidth,
            "communication": sent / self.chip.interconnect,
        }

    @property
    def step(self) -> float:
        """Seconds of a step if all three went on beside each other without a pause."""
        return max(self.seconds.values())

    @property
    def utilisation(self) -> float:
        """The share of the peak that needed operations can reach."""
        return self.needed / self.chip.peak(self.config.model.dtype) / self.step


class DoesNotFit(Exception):
    """A device has less memory than the step needs; both in bytes."""

    def __init__(self, what: str, needed: float, usable: float):
        super().__init__(
            f"{what} do not fit: a device would need {needed / GIB:.2f} GiB of HBM and has "
            f"{usable / GIB:.2f} to use"
        )
        self.lacking = needed - usable


def devices_of(topology: str) -> list:
    """The devices of a slice that need not be there, such as v5e:16x16."""
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    known = [chip.name for chip in hardware.CHIPS if chip.kinds[0].startswith("TPU")]
    require(
        bool(named) and named[1] in known,
        f"no TPU topology is called {topology}: {EXAMPLES}; there are {', '.join(known)}",
    )
    require(
        importlib.util.find_spec("libtpu") is not None,
        "a plan needs TPUs' compiler, which runs on any machine: pip install 'urgt-jax[tpu]'",
    )
    _without_hardware()
    sides = [int(side) for side in named[2].split("x")]
    host = [min(side, 2) for side in sides[:2]] + [1]
    options = {"chip_config_name": "megacore"} if named[1] == "v4" else {}
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chips_per_host_bounds=host, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        told = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines()[0]
        raise UserError(f"no TPU topology is called {topology} ({told}): {EXAMPLES}") from error


def _without_hardware() -> None:
    """Keeps JAX from looking for TPUs, and libtpu from asking a cloud where it runs."""
    jax.config.update("jax_platforms", "cpu")
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)


class _Blank:
    """A small picture of nothing, from which a batch's shapes are had."""

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "blank"

    def size(self, index: int) -> tuple[int, int]:
        return 64, 64

    def read(self, index: int, window) -> PriorSample:
        rows, cols = window
        shape = rows.stop - rows.start, cols.stop - cols.start
        flat, vectors = np.ones(shape, np.float32), np.ones((*shape, 3), np.float32)
        camera = np.ones(4, np.float32)
        return PriorSample(
            vectors.astype(np.uint8), flat, flat > 0, camera, None, vectors, flat, vectors,
            DisparityFit(1.0, 0.0),
        )  # fmt: skip


def abstract_batch(config: Config, side: int) -> Batch:
    """Shapes and dtypes of the batches whose blocks are side x side patches, over all hosts."""
    blank = _Blank()
    block = grid.gridmix_block(*blank.size(0), 4 if config.data.packed else side, 0, 0)
    made = gridmix.read_block(blank, 0, config, block)
    if config.data.packed:
        made["owner"] = np.zeros(MAX_BLOCK_PATCHES, np.int32)
    rows = config.data.images(side)
    return {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in made.items()}


def needed(config: Config, side: int) -> float:
    """Operations that a training step needs; packed for the blocks of rows in the mean."""
    blocks = (
        gridmix.mean_blocks_per_row(config.data.mix) if config.data.packed else np.eye(4)[side - 1]
    )
    row = sum(n * flops.training(config, m * m).total for m, n in enumerate(blocks, 1))
    return config.data.images(side) * row


def plan(topology: str, config: Config, side: int) -> StepPlan:
    """Compiles the step of training; DoesNotFit if a device has too little memory."""
    devices = devices_of(topology)
    mesh = sharding.make_mesh(config, devices)
    state, batch = abstract_state(config), abstract_batch(config, side)
    images, patches = batch["valid"].shape[:2]
    what = f"{images} images of {patches} patches on {topology}"
    began = time.monotonic()
    with _signs_of_life(f"compiling {what}"):
        compiled = _compiled(train_step(config, mesh).lower(state, batch), what)
    took, program = time.monotonic() - began, hlo_costs.Program(compiled.as_text())
    sharers = sum(d.coords == devices[0].coords for d in devices)
    share = images / mesh.devices.size
    return StepPlan(
        topology, hardware.chip_of(devices[0], sharers), config, dict(mesh.shape), side,
        _memory(config, mesh, state, batch, compiled),
        needed(config, side) / mesh.devices.size,
        flops.executed(config, patches).total * share,
        program.traffic(), program.hbm(), took,
    )  # fmt: skip


def _compiled(lowered, what: str):
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        told = OVERFLOW.search(str(error))
        if not told:
            raise
        raise DoesNotFit(what, *map(_number, told.groups())) from error


def _number(told: str) -> float:
    """The bytes that 15.75G stands for."""
    return float(told[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[told[-1]]


def _memory(config: Config, mesh: Mesh, state, batch: Batch, compiled) -> DeviceMemory:
    lies = state_shardings(config, mesh)
    rows = {name: sharding.image_sharding(mesh) for name in batch}
    return DeviceMemory(
        _held(state.params, lies.params), _held(state.opt, lies.opt), _held(batch, rows),
        compiled.memory_analysis().peak_memory_in_bytes,
    )  # fmt: skip


def _held(shapes, lies) -> float:
    """Bytes of arrays on one device."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(lies), strict=True)
    return sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)


def largest(topology: str, config: Config, side: int) -> StepPlan:
    """The plan of the largest data.batch that fits; DoesNotFit if none does.

    Memory grows evenly with images, so that two sizes tell which third one to try.
    """
    unit = _unit(config, devices_of(topology))
    of = lambda count: plan(topology, with_changes(config, {"data.batch": count * unit}), side)  # noqa: E731
    one = of(1)
    try:
        two = of(2)
    except DoesNotFit:
        return one
    growth = max(two.memory.peak - one.memory.peak, 1)
    count = 2 + int((USABLE * one.chip.hbm - two.memory.peak) // growth)
    while count > 2:
        try:
            return of(count)
        except DoesNotFit as error:
            count -= max(math.ceil(error.lacking / growth), 1)
    return two


def _unit(config: Config, devices: list) -> int:
    """The least data.batch that divides among devices and parts."""
    told, parts = config.mesh, config.optim.accumulate
    plenty = 9 * len(devices) * max(told.data, 1) * max(told.fsdp, 1) * parts
    mesh = sharding.make_mesh(with_changes(config, {"data.batch": plenty}), devices)
    ninths = 9 if config.data.batching == "patches" and 3 in sharding.block_sides(config) else 1
    return mesh.shape["data"] * mesh.shape["fsdp"] * parts * ninths


@contextlib.contextmanager
def _signs_of_life(what: str) -> Iterator[None]:
    """Tells on stderr how long something has taken, every half minute."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(TELL):
            print(
                f"{what}: {format_duration(time.monotonic() - began)}", file=sys.stderr, flush=True
            )

    print(f"{what}, which takes minutes ...", file=sys.stderr, flush=True)
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def section(plan: StepPlan, command: str) -> str:
    """The plan in Markdown, under the command that made it."""
    mesh = " x ".join(f"{name} {count}" for name, count in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    return "\n".join(
        [
            f"### {plan.topology}: {plan.batch} images in a step on {devices} devices",
            "",
            f"    {command}",
            "",
            f"Mesh {mesh}; {plan.config.data.patches(plan.side)} patches an image; "
            f"{plan.config.model.dtype}, remat {plan.config.model.remat}. Compiled in "
            f"{format_duration(plan.compiling)}.",
            "",
            *_memory_table(plan),
            "",
            *_time_table(plan),
            "",
            f"A step takes at least {_short(plan.step)} s: at most "
            f"{_short(plan.batch / plan.step)} images/s and {plan.utilisation:.0%} of the peak "
            f"(MFU). {BOUND}",
        ]
    )


BOUND = (
    "An estimate, not a measurement: the largest of the three times, from published peaks, as if "
    "the others cost nothing."
)


def _memory_table(plan: StepPlan) -> list[str]:
    memory, usable = plan.memory, USABLE * plan.chip.hbm
    rows = {
        "Parameters": memory.parameters,
        "Optimiser state": memory.optimiser,
        "Batch": memory.batch,
        "Activations, gradients, gathered parameters": memory.work,
        f"Peak, of {usable / GIB:.4g} GiB that a program can use": memory.peak,
    }
    lines = [f"| {what} | {_short(size / GIB)} |" for what, size in rows.items()]
    return ["| Memory of a device | GiB |", "|---|---|", *lines]


def _time_table(plan: StepPlan) -> list[str]:
    peak = plan.chip.peak(plan.config.model.dtype)
    moved = [
        (
            f"{kind}, {x.count} times",
            f"{_short(x.sent / GB)} GB sent",
            plan.chip.interconnect,
            x.sent,
        )
        for kind, x in sorted(plan.traffic.items())
    ]
    rows = [
        ("Operations needed", f"{_short(plan.needed / TERA)} TFLOP", peak, plan.needed),
        ("Operations done", f"{_short(plan.executed / TERA)} TFLOP", peak, plan.executed),
        ("HBM, read and written", f"{_short(plan.hbm / GB)} GB", plan.chip.hbm_bandwidth, plan.hbm),
        *moved,
    ]
    lines = [f"| {what} | {size} | {_short(x / rate)} |" for what, size, rate, x in rows]
    return ["| A step on a device | | Seconds at the peak |", "|---|---|---|", *lines]


def _short(x: float) -> str:
    """Three digits that count, and no powers of ten where there are more."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"
