"""Measures time and memory of a forward pass: random weights through what `urgt refine` runs."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path

from urgt_jax.config import SIZES, Config, Eval, Model
from urgt_jax.hardware import peak_device_memory
from urgt_jax.inference.refiner import Refiner
from urgt_jax.inference.stages import Stages
from urgt_jax.models.precision import weight_dtype
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.progress import Progress
from urgt_jax.scaling.profile import print_costliest, tracing


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass; CPU seconds are user and system time of the host."""

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
    encode_seconds: float
    attend_seconds: float
    heads_seconds: float
    peak_gb: float  # most memory held on the device, or by the process on CPUs, 10^9 bytes

    def __str__(self) -> str:
        return (
            f"{self.size} {self.dtype}: {self.parameters / 1e6:.0f} M parameters, "
            f"{self.patches} patches, {self.tokens} tokens, compiled in {self.compile_seconds:.1f} "
            f"s, {self.wall_seconds:.3g} s (encode {self.encode_seconds:.3g}, attend "
            f"{self.attend_seconds:.3g}, heads {self.heads_seconds:.3g}), {self.cpu_seconds:.1f} "
            f"CPU-s, peak {self.peak_gb:.2f} GB"
        )


def measure(
    size: str, patches: int, dtype: str, pool: int, repeat: int, profile: Path | None
) -> Cost:
    """Measures the cheapest of `repeat` forward passes over an image of that many patches.

    One more pass is written into the folder `profile`, stage by stage.
    """
    model = replace(SIZES[size], dtype=dtype)
    name = f"{size}, {patches} patches"
    print(f"{name}: drawing weights", file=sys.stderr, flush=True)
    # All patches stay on the device: streamed, the pass would be another program.
    config = Config(model=model, eval=Eval(pool=pool))
    refiner = Refiner(random_weights(model), config, resident=patches)
    stages = [TimedStage(stage) for stage in refiner.stages]
    refiner.stages = Stages(*stages)
    grid = squarest_grid(patches)
    inputs = noise_inputs(grid[0] * model.patch_size[0], grid[1] * model.patch_size[1])
    passes = []
    for i in range(repeat):
        for stage in stages:
            stage.reset()
        progress = Progress(f"{name}, pass {i + 1} of {repeat}: step", 1)
        start = read_clocks()
        refiner(*inputs, grid=grid, overlap=0.0, progress=progress.follow)
        passes.append(PassTimes(read_clocks() - start, stages))
    peak_gb = peak_device_memory(jax.local_devices()[0])
    if profile is not None:
        for name, stage in zip(Stages._fields, stages, strict=True):
            stage.profile = profile / name
        refiner(*inputs, grid=grid, overlap=0.0)
        print_costliest(profile, Stages._fields)
    on_cpu = jax.default_backend() == "cpu"  # where other work disturbs CPU seconds least
    cheapest = min(passes, key=lambda times: times.cpu if on_cpu else times.wall)
    encode, attend, heads = (cpu for cpu, _ in cheapest.stages)
    encode_wall, attend_wall, heads_wall = (wall for _, wall in cheapest.stages)
    return Cost(
        size=size,
        dtype=dtype,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(refiner.params)),
        patches=patches,
        tokens=patches * tokens_per_patch(model),
        compile_seconds=passes[0].compiling,
        cpu_seconds=cheapest.cpu,
        wall_seconds=cheapest.wall,
        encode_cpu_seconds=encode,
        attend_cpu_seconds=attend,
        heads_cpu_seconds=heads,
        encode_seconds=encode_wall,
        attend_seconds=attend_wall,
        heads_seconds=heads_wall,
        peak_gb=peak_gb,
    )


class TimedStage:
    """A stage of the forward pass that counts its own seconds, and those of its compilation."""

    def __init__(self, stage: Callable):
        self.stage = stage
        self.compiled: dict[tuple, Callable] = {}  # by the shapes of the arguments
        self.profile: Path | None = None  # folder of traces
        self.reset()

    def reset(self) -> None:
        """Starts to count from zero."""
        self.compiling = np.zeros(2)  # CPU and wall seconds
        self.running = np.zeros(2)

    def __call__(self, *arguments):
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(arguments))
        start = read_clocks()
        if shapes not in self.compiled:
            self.compiled[shapes] = self.stage.lower(*arguments).compile()
        compiled = read_clocks()
        with tracing(self.profile):
            output = jax.block_until_ready(self.compiled[shapes](*arguments))
        self.compiling = self.compiling + compiled - start
        self.running = self.running + read_clocks() - compiled
        return output


class PassTimes:
    """The seconds of one forward pass, compilation apart."""

    def __init__(self, total: np.ndarray, stages: list[TimedStage]):
        compiling = sum(stage.compiling for stage in stages)
        self.cpu, self.wall = total - compiling
        self.compiling = compiling[1]
        self.stages = [stage.running for stage in stages]


def random_weights(model: Model) -> dict:
    """Weights that keep activations near one; the same draws are repeated, which is quick."""
    draws = np.random.default_rng(0).uniform(-1, 1, 1 << 20).astype(np.float32)

    def draw(path, leaf) -> jax.Array:
        name = str(path[-1].key)
        if "scale" in name:
            return jnp.ones(leaf.shape, jnp.float32)
        fan_in = leaf.shape[-2] if name == "kernel" else 1000
        values = np.resize(draws * fan_in**-0.5, leaf.shape)
        values = values.astype(jnp.dtype(weight_dtype(path, model)))
        # Waits for the copy: while it is on its way, several leaves would be in memory twice.
        return jax.block_until_ready(jax.device_put(values))

    return jax.tree_util.tree_map_with_path(draw, abstract_params(model))


def squarest_grid(patches: int) -> tuple[int, int]:
    """Rows and columns of patches, as near to a square as their number allows."""
    rows = max(n for n in range(1, int(patches**0.5) + 1) if patches % n == 0)
    return rows, patches // rows


def noise_inputs(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of noise, and its coarse maps."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    depth = image[..., 0] / np.float32(255)
    normal = np.broadcast_to(np.array([0, 0, -1], np.float32), image.shape)
    return image, depth, normal


def read_clocks() -> np.ndarray:
    """CPU seconds of this process, and wall-clock seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([usage.ru_utime + usage.ru_stime, time.monotonic()])
