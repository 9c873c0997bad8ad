"""Time and memory of a training step on this machine, against the rate of its matrix products."""

import csv
import io
import time
from dataclasses import asdict, dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path

from urgt_jax.config import DTYPES, Config
from urgt_jax.data.gridmix import patch_owners, row_sides
from urgt_jax.files import open_to_append
from urgt_jax.hardware import chip_of, peak_device_memory
from urgt_jax.models.precision import in_precision
from urgt_jax.scaling.batch_shapes import abstract_batch, needed_flops
from urgt_jax.scaling.profile import print_costliest, tracing
from urgt_jax.scaling.study import read_table
from urgt_jax.training import sharding
from urgt_jax.training.step import initial_state, train_step

# Side of the square matrices whose product measures the peak of a CPU, and of an accelerator.
MATRIX_SIDE_CPU = 2048
MATRIX_SIDE = 8192


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step; its share of the peak counts only the FLOPs that it needs."""

    size: str
    batching: str
    dtype: str
    patches: int
    images: int
    remat: str
    compile_seconds: float
    seconds: float
    peak_gb: float  # most memory on the device, or of this process on CPUs, 10^9 bytes
    temporary_gb: float  # of the compiled step alone
    gflops: float  # per second
    matmul_gflops: float  # per second, of a large product in the same dtype
    chip_gflops: float  # per second, the published peak in the same dtype; 0 where it is not known

    def __str__(self) -> str:
        packed = " packed" if self.batching == "packed" else ""
        text = (
            f"{self.size} {self.dtype}, {self.images} x {self.patches} patches{packed}, remat "
            f"{self.remat}: compiled in {self.compile_seconds:.1f} s, step {self.seconds:.3g} s or "
            f"{self.seconds / (self.images * self.patches):.3g} s a patch, peak "
            f"{self.peak_gb:.2f} GB, temporary {self.temporary_gb:.2f} GB, {self.gflops:.0f} "
            f"GFLOP/s, {self.gflops / self.matmul_gflops:.0%} of {self.matmul_gflops:.0f} (matmul)"
        )
        if self.chip_gflops:
            text += f", {self.gflops / self.chip_gflops:.0%} of {self.chip_gflops:.0f} (published)"
        return text


def measure_step(
    size: str, config: Config, side: int, repeat: int, profile: Path | None
) -> StepCost:
    """Measures the quickest of `repeat` training steps over blocks of side x side patches of noise.

    Packed rows are filled like the first ones of a run. One more step is written into the folder
    `profile`.
    """
    mesh = sharding.make_mesh(config, jax.devices()[:1])
    state = jax.block_until_ready(initial_state(config, mesh))
    batch = sharding.put_on_mesh(noise_batch(config, side), mesh)
    start = time.monotonic()
    step = train_step(config, mesh).lower(state, batch).compile()
    compile_seconds = time.monotonic() - start
    times = []
    for _ in range(repeat):
        start = time.monotonic()
        state, *_ = jax.block_until_ready(step(state, batch))
        times.append(time.monotonic() - start)
    seconds = min(times)
    images, patches = batch["valid"].shape[:2]
    peak_gb = peak_device_memory(mesh.devices.flat[0])
    if profile is not None:
        folder = profile / f"training-{size}-{config.model.dtype}-{patches}-patches"
        with tracing(folder / "step"):
            jax.block_until_ready(step(state, batch))
        print_costliest(folder, ("step",))
    device = mesh.devices.flat[0]
    dtype = config.model.dtype
    chip = chip_of(device)
    return StepCost(
        size=size,
        batching=config.data.batching,
        dtype=dtype,
        patches=patches,
        images=images,
        remat=config.model.remat,
        compile_seconds=compile_seconds,
        seconds=seconds,
        peak_gb=peak_gb,
        temporary_gb=step.memory_analysis().temp_size_in_bytes / 1e9,
        gflops=needed_flops(config, side) / seconds / 1e9,
        matmul_gflops=matmul_peak(dtype) / 1e9,
        chip_gflops=chip.peak(dtype) / 1e9 if chip else 0.0,
    )


def noise_batch(config: Config, side: int) -> dict[str, np.ndarray]:
    """A batch of the right shapes, valid everywhere, with maps of numbers in [1, 2)."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, x in abstract_batch(config, side).items():
        if name == "valid":
            batch[name] = np.ones(x.shape, bool)
        elif name == "owner":
            rows = [patch_owners(row_sides(config, 0, row)) for row in range(len(x))]
            batch[name] = np.stack(rows)
        else:
            batch[name] = (1 + rng.random(x.shape, np.float32)).astype(x.dtype)
    return batch


def matmul_peak(dtype: str, tries: int = 5) -> float:
    """FLOP/s of a product of large matrices in a model's dtype, the best of some tries."""
    side = MATRIX_SIDE_CPU if jax.default_backend() == "cpu" else MATRIX_SIDE
    matrix = jnp.ones((side, side), DTYPES[dtype].products)
    product = jax.jit(in_precision(dtype, jnp.dot)).lower(matrix, matrix).compile()
    times = []
    for _ in range(tries):
        start = time.monotonic()
        jax.block_until_ready(product(matrix, matrix))
        times.append(time.monotonic() - start)
    return 2 * side**3 / min(times)


def read_steps(path: Path) -> list[dict[str, str]]:
    """The rows of a table of training steps; fails if it is another table."""
    columns = tuple(field.name for field in fields(StepCost))
    return list(read_table(path, columns, "training steps"))


def append_step(path: Path, cost: StepCost) -> None:
    """Adds a row to a table of training steps."""
    row = asdict(cost)
    text = io.StringIO()
    writer = csv.DictWriter(text, row)
    with open_to_append(path) as file:
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        file.write(text.getvalue().encode())
