"""What a training step needs on a TPU slice, from compiling it ahead of time on any machine."""

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
from jax.experimental import topologies
from jax.sharding import Mesh

from urgt_jax import hardware
from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError, require
from urgt_jax.hardware import GB, GIB, TERA, Chip
from urgt_jax.models import flops
from urgt_jax.models.apply import Batch
from urgt_jax.progress import format_duration
from urgt_jax.scaling import hlo_costs
from urgt_jax.scaling.batch_shapes import abstract_batch, needed_flops
from urgt_jax.training import sharding
from urgt_jax.training.step import State, abstract_state, state_shardings, train_step

EXAMPLES = "name one like v5e:16x16, v5p:4x4x4 or v6e:4x4"
USABLE = 15.75 / 16  # share of HBM that the compiler gives to a program on a v5e
OVERFLOW = re.compile(r"\(([\d.]+[KMG])\) exceeds available HBM \(([\d.]+[KMG])\)")
REPORT_SECONDS = 30  # between lines on stderr while the compiler works


@dataclass(frozen=True)
class DeviceMemory:
    """What one device holds, bytes."""

    parameters: float
    optimizer: float
    batch: float
    peak: float  # with activations, gradients and what is gathered

    @property
    def work(self) -> float:
        """What exists only during a step."""
        return self.peak - self.parameters - self.optimizer - self.batch


@dataclass(frozen=True)
class StepPlan:
    """A training step on a slice; times are estimates from published peaks."""

    topology: str
    chip: Chip  # what one device can do
    config: Config
    mesh: dict[str, int]
    side: int  # M of GridMix
    memory: DeviceMemory
    needed: float  # FLOPs that a step needs of a device
    executed: float  # FLOPs that it executes, recomputation included
    traffic: dict[str, hlo_costs.Traffic]  # within a slice
    between_slices: hlo_costs.Traffic
    hbm: float  # bytes read from and written to HBM
    compiling: float  # seconds that compilation took

    @property
    def batch(self) -> int:
        """Images in a step."""
        return self.config.data.images(self.side)

    @property
    def seconds(self) -> dict[str, float]:
        """The least time that a device spends on each."""
        sent = sum(x.sent for x in self.traffic.values())
        seconds = {
            "compute": self.executed / self.chip.peak(self.config.model.dtype),
            "memory": self.hbm / self.chip.hbm_bandwidth,
            "communication": sent / self.chip.interconnect,
        }
        if self.between_slices.count and self.chip.slice_network:
            seconds["between slices"] = self.between_slices.sent / self.chip.slice_network
        return seconds

    @property
    def step(self) -> float:
        """Seconds of a step if all of them overlap perfectly."""
        return max(self.seconds.values())

    @property
    def utilization(self) -> float:
        """An upper bound on the model FLOPs utilization (MFU)."""
        return self.needed / self.chip.peak(self.config.model.dtype) / self.step


class DoesNotFit(Exception):
    """A device has less memory than the step needs; both in bytes."""

    def __init__(self, what: str, needed: float, usable: float):
        super().__init__(
            f"{what} do not fit: a device would need {needed / GIB:.2f} GiB of HBM and has "
            f"{usable / GIB:.2f} to use"
        )
        self.lacking = needed - usable


def devices_of(topology: str, slices: int = 1) -> list:
    """The devices of some equal slices, such as v5e:16x16, which need not exist here."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    known = [chip.name for chip in hardware.CHIPS if chip.kinds[0].startswith("TPU")]
    require(
        match is not None and match[1] in known,
        f"no TPU topology is called {topology}: {EXAMPLES}; known chips: {', '.join(known)}",
    )
    require(
        importlib.util.find_spec("libtpu") is not None,
        "a plan needs the TPU compiler, which runs on any machine: pip install 'urgt-jax[tpu]'",
    )
    ignore_local_hardware()
    chip = match[1]
    sides = [int(side) for side in match[2].split("x")]
    chips_per_host = [min(side, 2) for side in sides[:2]] + [1]
    options = {"chip_config_name": "megacore"} if chip == "v4" else {}
    if slices > 1:
        options["num_slices"] = slices
    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology,
            chips_per_host_bounds=chips_per_host,
            **options,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines()[0]
        raise UserError(f"no TPU topology is called {topology} ({reason}): {EXAMPLES}") from error
    return description.devices


def ignore_local_hardware() -> None:
    """Keeps JAX from looking for TPUs, and libtpu from asking a cloud where it runs."""
    jax.config.update("jax_platforms", "cpu")
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def plan(topology: str, config: Config, side: int, slices: int = 1) -> StepPlan:
    """Compiles a training step for slices; DoesNotFit if a device has too little memory."""
    devices = devices_of(topology, slices)
    mesh = sharding.make_mesh(config, devices)
    state = abstract_state(config)
    batch = abstract_batch(config, side)
    images, patches = batch["valid"].shape[:2]
    if slices > 1:
        topology = f"{slices} slices of {topology}"
    what = f"{images} images of {patches} patches on {topology}"
    start = time.monotonic()
    with reporting_progress(f"compiling {what}"):
        compiled = compile_or_overflow(train_step(config, mesh).lower(state, batch), what)
    seconds = time.monotonic() - start
    program = hlo_costs.Program(compiled.as_text())
    # Coordinates repeat from slice to slice.
    own_slice = [x for x in devices if sharding.slice_of(x) == sharding.slice_of(devices[0])]
    cores_per_chip = sum(device.coords == devices[0].coords for device in own_slice)
    count = mesh.devices.size
    return StepPlan(
        topology=topology,
        chip=hardware.chip_of(devices[0], cores_per_chip),
        config=config,
        mesh=dict(mesh.shape),
        side=side,
        memory=device_memory(config, mesh, state, batch, compiled),
        needed=needed_flops(config, side) / count,
        executed=flops.executed(config, patches).total * images / count,
        traffic=program.traffic(),
        between_slices=program.between_slices(),
        hbm=program.hbm(),
        compiling=seconds,
    )


def compile_or_overflow(lowered: jax.stages.Lowered, what: str) -> jax.stages.Compiled:
    """Compiles a program; the compiler's error about too little memory becomes DoesNotFit."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        match = OVERFLOW.search(str(error))
        if match is None:
            raise
        raise DoesNotFit(what, parse_bytes(match[1]), parse_bytes(match[2])) from error


def parse_bytes(text: str) -> float:
    """The bytes that a text such as 15.75G stands for."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return float(text[:-1]) * units[text[-1]]


def device_memory(
    config: Config, mesh: Mesh, state: State, batch: Batch, compiled: jax.stages.Compiled
) -> DeviceMemory:
    """Memory of one device, bytes."""
    layout = state_shardings(config, mesh)
    rows = {name: sharding.image_sharding(mesh) for name in batch}
    return DeviceMemory(
        parameters=bytes_per_device(state.params, layout.params),
        optimizer=bytes_per_device(state.opt_state, layout.opt_state),
        batch=bytes_per_device(batch, rows),
        peak=compiled.memory_analysis().peak_memory_in_bytes,
    )


def bytes_per_device(arrays, shardings) -> float:
    """Bytes of a tree of arrays on one device."""
    total = 0
    for x, layout in zip(jax.tree.leaves(arrays), jax.tree.leaves(shardings), strict=True):
        total += math.prod(layout.shard_shape(x.shape)) * x.dtype.itemsize
    return total


def largest(topology: str, config: Config, side: int, slices: int = 1) -> StepPlan:
    """The plan of the largest data.batch that fits; DoesNotFit if none does.

    Memory grows evenly with the number of images, so two sizes predict which one to try next.
    """
    unit = least_batch(config, devices_of(topology, slices))

    def plan_of(count: int) -> StepPlan:
        return plan(topology, with_changes(config, {"data.batch": count * unit}), side, slices)

    one = plan_of(1)
    try:
        two = plan_of(2)
    except DoesNotFit:
        return one
    growth = max(two.memory.peak - one.memory.peak, 1)
    count = 2 + int((USABLE * one.chip.hbm - two.memory.peak) // growth)
    while count > 2:
        try:
            return plan_of(count)
        except DoesNotFit as error:
            count -= max(math.ceil(error.lacking / growth), 1)
    return two


def least_batch(config: Config, devices: list) -> int:
    """The least data.batch that divides among the devices and the parts of an accumulated step."""
    parts = config.optim.accumulate
    enough = 9 * len(devices) * max(config.mesh.data, 1) * max(config.mesh.fsdp, 1) * parts
    mesh = sharding.make_mesh(with_changes(config, {"data.batch": enough}), devices)
    unit = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    # Where patches are batched, a step of 3 x 3 blocks has 16 / 9 of the images.
    has_ninths = config.data.batching == "patches" and 3 in sharding.block_sides(config)
    return 9 * unit if has_ninths else unit


@contextlib.contextmanager
def reporting_progress(what: str) -> Iterator[None]:
    """Prints every half minute on stderr how long something has taken."""
    start = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(REPORT_SECONDS):
            passed = format_duration(time.monotonic() - start)
            print(f"{what}: {passed}", file=sys.stderr, flush=True)

    print(f"{what}, which takes minutes ...", file=sys.stderr, flush=True)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


BOUND = (
    "This is an estimate, not a measurement: the largest of these times, at published peaks, as if "
    "the others overlapped with it perfectly."
)


def section(plan: StepPlan, command: str) -> str:
    """The plan in Markdown, under the command that made it."""
    mesh = " x ".join(f"{name} {count}" for name, count in plan.mesh.items())
    devices = math.prod(plan.mesh.values())
    model = plan.config.model
    lines = [
        f"### {plan.topology}: {plan.batch} images in a step on {devices} devices",
        "",
        f"    {command}",
        "",
        f"Mesh {mesh}; {plan.config.data.patches(plan.side)} patches an image; {model.dtype}, "
        f"remat {model.remat}. Compiled in {format_duration(plan.compiling)}.",
        "",
        *memory_table(plan),
        "",
        *time_table(plan),
        "",
        f"A step takes at least {short(plan.step)} s: at most {short(plan.batch / plan.step)} "
        f"images/s and {plan.utilization:.0%} of the peak (MFU). {BOUND}",
    ]
    return "\n".join(lines)


def memory_table(plan: StepPlan) -> list[str]:
    """Memory of a device, by what it holds."""
    memory = plan.memory
    usable = USABLE * plan.chip.hbm
    rows = {
        "Parameters": memory.parameters,
        "Optimizer state": memory.optimizer,
        "Batch": memory.batch,
        "Activations, gradients, gathered parameters": memory.work,
        f"Peak, of {usable / GIB:.4g} GiB that a program can use": memory.peak,
    }
    lines = [f"| {what} | {short(size / GIB)} |" for what, size in rows.items()]
    return ["| Memory of a device | GiB |", "|---|---|", *lines]


def time_table(plan: StepPlan) -> list[str]:
    """What a device computes and moves in a step, and the seconds that takes at the peak."""
    chip = plan.chip
    peak = chip.peak(plan.config.model.dtype)
    rows = [
        ("FLOPs needed", f"{short(plan.needed / TERA)} TFLOP", plan.needed / peak),
        ("FLOPs executed", f"{short(plan.executed / TERA)} TFLOP", plan.executed / peak),
        ("HBM, read and written", f"{short(plan.hbm / GB)} GB", plan.hbm / chip.hbm_bandwidth),
    ]
    for kind, traffic in sorted(plan.traffic.items()):
        what = f"{kind}, {traffic.count} times"
        amount = f"{short(traffic.sent / GB)} GB sent"
        rows.append((what, amount, traffic.sent / chip.interconnect))
    if plan.between_slices.count:
        what = f"between slices, {plan.between_slices.count} times"
        amount = f"{short(plan.between_slices.sent / GB)} GB sent"
        rows.append((what, amount, plan.seconds.get("between slices")))
    lines = []
    for what, amount, seconds in rows:
        time = "not published" if seconds is None else short(seconds)
        lines.append(f"| {what} | {amount} | {time} |")
    return ["| A step on a device | | Seconds at the peak |", "|---|---|---|", *lines]


def short(x: float) -> str:
    """A number with three significant digits, and no power of ten where it is large."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"
