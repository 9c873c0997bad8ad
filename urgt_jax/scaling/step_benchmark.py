"""Time and memory of a training step on this machine, against its own products of matrices."""

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from urgt_jax.config import Config
from urgt_jax.data.gridmix import patch_owners, row_sides
from urgt_jax.hardware import peak_memory
from urgt_jax.scaling.study import read
from urgt_jax.scaling.tpu_plan import abstract_batch, needed
from urgt_jax.training import sharding
from urgt_jax.training.step import initial_state, train_step

SIDE = 2048  # of the square matrices whose product tells the machine's peak


@dataclass(frozen=True)
class StepCost:
    """What one step took; its share of the peak counts the operations that a step needs."""

    size: str
    fill: str
    patches: int
    images: int
    remat: str
    compile_seconds: float
    seconds: float
    peak_gb: float  # resident memory, 10^9 bytes, with compiling
    temporary_gb: float  # of the compiled step alone
    gflops: float  # per second
    matmul_gflops: float  # per second, of a large product in float32

    def __str__(self) -> str:
        packed = " packed" if self.fill == "packed" else ""
        return (
            f"{self.size}, {self.images} x {self.patches} patches{packed}, remat "
            f"{self.remat}: compiled in {self.compile_seconds:.1f} s, step {self.seconds:.2f} s or "
            f"{self.seconds / (self.images * self.patches):.3g} s a patch, peak "
            f"{self.peak_gb:.2f} GB, temporary {self.temporary_gb:.2f} GB, {self.gflops:.0f} "
            f"GFLOP/s, {self.gflops / self.matmul_gflops:.0%} of {self.matmul_gflops:.0f} (matmul)"
        )


def measure_step(size: str, config: Config, side: int, repeat: int) -> StepCost:
    """The cost of the quickest of some steps over blocks of side x side patches of noise.

    Packed rows are filled as the first ones of a run.
    """
    mesh = sharding.make_mesh(config, jax.devices()[:1])
    state = jax.block_until_ready(initial_state(config, mesh))
    batch = sharding.put_on_mesh(noise(config, side), mesh)
    began = time.monotonic()
    step = train_step(config, mesh).lower(state, batch).compile()
    compiling = time.monotonic() - began
    spent = []
    for _ in range(repeat):
        began = time.monotonic()
        state, *_ = jax.block_until_ready(step(state, batch))
        spent.append(time.monotonic() - began)
    images, patches = batch["valid"].shape[:2]
    return StepCost(
        size, config.data.batching, patches, images, config.model.remat,
        compiling, min(spent), peak_memory(), step.memory_analysis().temp_size_in_bytes / 1e9,
        needed(config, side) / min(spent) / 1e9, matmul_peak() / 1e9,
    )  # fmt: skip


def noise(config: Config, side: int) -> dict[str, np.ndarray]:
    """A batch of the right shapes, all valid, with maps of numbers in [1, 2)."""
    draws = np.random.default_rng(0)

    def draw(name: str, x) -> np.ndarray:
        if name == "valid":
            return np.ones(x.shape, bool)
        if name == "owner":
            return np.stack([patch_owners(row_sides(config, 0, row)) for row in range(len(x))])
        return (1 + draws.random(x.shape, np.float32)).astype(x.dtype)

    return {name: draw(name, x) for name, x in abstract_batch(config, side).items()}


def matmul_peak(tries: int = 5) -> float:
    """FLOP/s of a product of large float32 matrices on the first device."""
    a = jnp.ones((SIDE, SIDE), jnp.float32)
    product = jax.jit(jnp.dot).lower(a, a).compile()
    return 2 * SIDE**3 / min(_seconds(product, a) for _ in range(tries))


def _seconds(product: Callable, a: jax.Array) -> float:
    began = time.monotonic()
    jax.block_until_ready(product(a, a))
    return time.monotonic() - began


def read_steps(path: Path) -> list[dict[str, str]]:
    """The rows of a table of training steps; fails if it is another table."""
    columns = tuple(field.name for field in fields(StepCost))
    return list(read(path, columns, "training steps"))


def append_step(path: Path, cost: StepCost) -> None:
    """Adds a row to a table of training steps."""
    row = asdict(cost)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
