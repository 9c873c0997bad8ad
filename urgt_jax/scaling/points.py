"""How each kind of point is worked out."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path

from urgt_jax import hardware
from urgt_jax.config import SIZES, Config, Model
from urgt_jax.data.sources import open_prior_source
from urgt_jax.errors import require
from urgt_jax.evaluation.candidates import RefinerCandidates
from urgt_jax.evaluation.run import image_names, score_images
from urgt_jax.evaluation.score import scoring_for
from urgt_jax.evaluation.tally import Tally
from urgt_jax.hardware import GB
from urgt_jax.inference import offload
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.models import flops
from urgt_jax.models.precision import weight_dtype
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.progress import format_duration
from urgt_jax.scaling import forward_benchmark
from urgt_jax.scaling import memory as compiled_memory
from urgt_jax.scaling.own_process import in_own_process
from urgt_jax.scaling.step_benchmark import matmul_peak
from urgt_jax.scaling.study import CHIPS, RESOLUTIONS, SCORES, Point, StudyRow, describe
from urgt_jax.weights.weight_file import load_weights


def model_of(point: Point) -> Model:
    """The model of a point whose size is a name."""
    return replace(SIZES[point.size], dtype=point.dtype)


def count_parameters_and_tokens(point: Point) -> StudyRow:
    """Parameters of the model, and tokens of all patches."""
    model = model_of(point)
    leaves = jax.tree.leaves(abstract_params(model))
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "tokens": point.patches * tokens_per_patch(model),
    }


def check_even(point: Point) -> None:
    """Fails unless the devices get equal numbers of patches."""
    require(
        point.patches % point.shards == 0,
        f"{point.patches} patches do not divide evenly among {point.shards} devices",
    )


def memory(point: Point) -> StudyRow:
    """Bytes of every stage on the device that holds most, and the parts of the worst stage."""
    check_even(point)
    stages = _compile(point, compiled_memory.compiled, point.patches, point.dtype, point.shards)
    worst = max(stages, key=lambda name: stages[name].total)
    row = count_parameters_and_tokens(point)
    row["memory_stage"] = worst
    for part, size in asdict(stages[worst]).items():
        row[f"memory_{part}"] = float(size)
    for name, stage in stages.items():
        row[f"memory_{name}"] = float(stage.total)
    return row


def training(point: Point) -> StudyRow:
    """Bytes that a training step holds on each device."""
    check_even(point)
    step = _compile(
        point, compiled_memory.training, point.patches, point.dtype, point.remat, point.shards
    )
    row = count_parameters_and_tokens(point)
    row["memory_temporary"] = float(step.temporary)
    row["memory_argument"] = float(step.argument)
    return row


def _compile(point: Point, work: Callable, *arguments):
    """work(size, *arguments) for a CPU, in a process of its own if the point needs several."""
    if point.shards == 1:
        return work(point.size, *arguments)
    return in_own_process(
        describe(point), compiled_memory.on_devices, point.size, point.shards, work, *arguments
    )


def operations(point: Point) -> StudyRow:
    """FLOPs of a device by part, and seconds at the published peaks of chips."""
    check_even(point)
    count = flops.forward(model_of(point), point.patches).scaled(1 / point.shards)
    row = count_parameters_and_tokens(point)
    row["flops_encoder"] = count.encoder
    row["flops_within"] = count.within_linear + count.within_attention
    row["flops_across_linear"] = count.across_linear
    row["flops_across_attention"] = count.across_attention
    row["flops_heads"] = count.dpt_heads
    for chip in hardware.CHIPS:
        if chip.name in CHIPS:
            row[f"seconds_{chip.name}"] = count.total / chip.peak(point.dtype)
    return row


def crossing(model: Model) -> float:
    """The number of patches at which attention across patches costs as much as all the rest."""
    one = flops.forward(model, 1)
    return (one.total - one.across_attention) / one.across_attention


def timed(limit: float, repeat: int, profile: Path | None) -> Callable[[Point], StudyRow]:
    """A function that measures seconds and memory of a pass, unless it takes over `limit` s.

    A profile of each pass goes into the folder `profile`.
    """

    def work(point: Point) -> StudyRow:
        check_affordable(point, limit)
        cost = in_own_process(
            describe(point),
            forward_benchmark.measure,
            point.size,
            point.patches,
            point.dtype,
            point.pool,
            repeat,
            profile and profile / describe(point).replace(" ", "-"),
        )
        figures = asdict(cost)
        return {name: value for name, value in figures.items() if name not in Point._fields}

    return work


def check_affordable(point: Point, limit: float) -> None:
    """Fails if even the least time or memory of a pass is too much for this machine."""
    model = model_of(point)
    limits = _machine_limits(point.dtype)
    seconds = flops.forward(model, point.patches, point.pool).total / limits.flops
    require(
        seconds <= limit,
        f"a pass would take at least {format_duration(seconds)} at the rate of this machine's "
        f"matrix products: raise --limit {limit:g}",
    )
    counts = count_parameters_and_tokens(point)
    width = model.width * np.dtype(model.dtypes.heads).itemsize
    layers = 2 * len(model.dpt_layers) * counts["tokens"] * width
    weights = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(model)):
        weights += leaf.size * jnp.dtype(weight_dtype(path, model)).itemsize
    needed = layers + weights
    require(
        needed <= limits.memory,
        f"a pass would take at least {needed / GB:.1f} GB of memory, but {limits.memory / GB:.1f} "
        "GB are free",
    )


class MachineLimits(NamedTuple):
    """What a forward pass on this machine is up against."""

    flops: float  # FLOP/s of matrix products
    memory: float  # free bytes on the device


@cache
def _machine_limits(dtype: str) -> MachineLimits:
    return in_own_process("a matrix product", measure_limits, dtype)


def measure_limits(dtype: str) -> MachineLimits:
    """Measures the limits of this machine in a model's dtype."""
    return MachineLimits(matmul_peak(dtype), offload.free_device_memory())


def quality(weights: Path, scenes: int) -> tuple[Callable[[Point], StudyRow], str]:
    """A function that scores weights on analytic scenes in any grid, and the weights' dtype."""
    _, config = load_weights(weights)

    def work(point: Point) -> StudyRow:
        size = RESOLUTIONS[point.resolution]
        return in_own_process(describe(point), score_scenes, weights, size, point.patches, scenes)

    return work, config.model.dtype


def score_scenes(weights: Path, size: tuple[int, int], patches: int, scenes: int) -> StudyRow:
    """Scores weights on analytic scenes of this size, cut into that many patches."""
    refiner = load(weights)
    grid = fitted_grid(size, patches, refiner.config.model.patch_size)
    config = on_scenes(refiner.config, size, grid, scenes)
    source = RefinerCandidates(Refiner(refiner.params, config), config)
    tally = Tally(source.names)
    images = open_prior_source(config, "")
    names = image_names(images, scenes)
    for _ in score_images(source, images, names, scoring_for(config), tally):
        pass
    require(bool(tally.images), f"no scene could be scored: {tally.skipped}")
    row = {"grid": f"{grid[0]}x{grid[1]}", "scenes": len(tally.images)}
    return row | score_columns(tally.means())


def score_columns(means: dict) -> StudyRow:
    """The scores that are defined, by column."""
    row = {}
    for side in ("coarse", "refined"):
        for name, (kind, metric) in SCORES.items():
            value = means[side][kind].get(metric, math.nan)
            if not math.isnan(value):
                row[f"{side}_{name}"] = float(value)
    return row


def on_scenes(config: Config, size: tuple[int, int], grid: tuple[int, int], scenes: int) -> Config:
    """An evaluation on scenes of this size, cut into exactly this grid, without pooled keys."""
    data = replace(config.data, source="scenes", path="", split="", priors_path="", size=size)
    scoring = replace(config.eval, images=scenes, grid=grid, overlap=0.0, pool=1)
    return replace(config, data=data, eval=scoring)


def fitted_grid(
    size: tuple[int, int], patches: int, patch_size: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of that many patches whose aspect is nearest to the network's patches."""
    height, width = size
    wanted_aspect = patch_size[0] / patch_size[1]

    def distortion(rows: int) -> float:
        cols = patches // rows
        aspect = (height / rows) / (width / cols)
        return abs(math.log(aspect / wanted_aspect))

    divisors = [n for n in range(1, patches + 1) if patches % n == 0]
    rows = min(divisors, key=distortion)
    return rows, patches // rows
