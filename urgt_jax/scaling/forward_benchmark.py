"""Time and memory of a forward pass, measured: random weights through what `predict` runs."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from urgt_jax.config import SIZES, Config, Model
from urgt_jax.errors import UserError
from urgt_jax.hardware import peak_memory
from urgt_jax.inference.refiner import Refiner
from urgt_jax.inference.stages import Stages
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.progress import Progress


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


def in_own_process(patches: int, measuring: Callable, size: str, *case):
    """measuring(size, *case) in a new process; fails where memory does not last."""
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
    # Streamed, it would be another program.
    refiner = Refiner(random_weights(model), Config(model=model), resident=patches)
    parts = [Part(stage) for stage in refiner.stages]
    refiner.stages = Stages(*parts)
    grid = _squarish(patches)
    picture = _picture(grid[0] * model.patch_size[0], grid[1] * model.patch_size[1])
    found = []
    for i in range(repeat):
        for part in parts:
            part.compiling = part.running = np.zeros(2)
        tell = Progress(f"{name}, pass {i + 1} of {repeat}: step", 1).follow
        before = _clocks()
        refiner(*picture, grid=grid, overlap=0.0, progress=tell)
        compiling = sum(part.compiling for part in parts)
        found.append((_clocks() - before - compiling, compiling[1], [p.running[0] for p in parts]))
    (cpu, wall), _, (encode, attend, heads) = min(found, key=lambda one: one[0][0])
    return Cost(
        size, dtype, sum(x.size for x in jax.tree.leaves(refiner.params)), patches,
        patches * tokens_per_patch(model), found[0][1], cpu, wall, encode, attend, heads, peak_memory(),
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

    return jax.tree_util.tree_map_with_path(draw, abstract_params(model))


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
