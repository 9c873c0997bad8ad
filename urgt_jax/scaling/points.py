"""What every kind of point is worked out by."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import jax
import numpy as np

from urgt_jax import hardware
from urgt_jax.config import SIZES, Config, Model
from urgt_jax.data.sources import open_prior_source
from urgt_jax.errors import require
from urgt_jax.evaluation.candidates import RefinerCandidates
from urgt_jax.evaluation.run import evaluate
from urgt_jax.evaluation.tally import Tally
from urgt_jax.hardware import GB, free_memory
from urgt_jax.inference.refiner import Refiner, load
from urgt_jax.models import flops
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params
from urgt_jax.progress import format_duration
from urgt_jax.scaling import forward_benchmark
from urgt_jax.scaling import memory as memories
from urgt_jax.scaling.step_benchmark import matmul_peak
from urgt_jax.scaling.study import CHIPS, RESOLUTIONS, SCORES, Point, StudyRow


def _model(point: Point) -> Model:
    return replace(SIZES[point.size], dtype=point.dtype)


def _counts(point: Point) -> StudyRow:
    """Parameters and tokens."""
    leaves = jax.tree.leaves(abstract_params(_model(point)))
    return {
        "parameters": sum(x.size for x in leaves),
        "tokens": point.patches * tokens_per_patch(_model(point)),
    }


def _even(point: Point) -> None:
    require(
        point.patches % point.shards == 0,
        f"{point.patches} patches do not divide evenly among {point.shards} devices",
    )


def memory(point: Point) -> StudyRow:
    """Bytes of the stages on the device that holds most; `memory_` tells of the worst of them."""
    _even(point)
    stages = _on_devices(point, memories.compiled, point.patches, point.dtype, point.shards)
    worst = max(stages, key=lambda name: stages[name].total)
    return _counts(point) | {
        "memory_stage": worst,
        **{f"memory_{name}": float(x) for name, x in asdict(stages[worst]).items()},
        **{f"memory_{name}": float(stage.total) for name, stage in stages.items()},
    }


def training(point: Point) -> StudyRow:
    """Bytes that a training step holds on each device."""
    _even(point)
    case = point.patches, point.dtype, point.remat, point.shards
    found = _on_devices(point, memories.training, *case)
    return _counts(point) | {
        "memory_temporary": float(found.temporary),
        "memory_argument": float(found.argument),
    }


def _on_devices(point: Point, work: Callable, *case):
    """work(size, *case), in a process of its own where the point needs several devices."""
    if point.shards == 1:
        return work(point.size, *case)
    together = memories.on_devices, point.size, point.shards, work, *case
    return forward_benchmark.in_own_process(point.patches, *together)


def operations(point: Point) -> StudyRow:
    """FLOPs of a device by part, and seconds at the published peaks of chips."""
    _even(point)
    found = flops.forward(_model(point), point.patches).scaled(1 / point.shards)
    known = {chip.name: chip for chip in hardware.CHIPS}
    return _counts(point) | {
        "flops_encoder": found.encoder,
        "flops_within": found.within_linear + found.within_attention,
        "flops_across_linear": found.across_linear,
        "flops_across_attention": found.across_attention,
        "flops_heads": found.dpt_heads,
        **{f"seconds_{name}": found.total / known[name].peak(point.dtype) for name in CHIPS},
    }


def crossing(model: Model) -> float:
    """Patches at which attention across patches takes as much as all that grows linearly."""
    one = flops.forward(model, 1)
    return (one.total - one.across_attention) / one.across_attention


def timed(limit: float, repeat: int) -> Callable[[Point], StudyRow]:
    """Seconds and memory of a pass, measured where it can end within `limit` seconds."""

    def work(point: Point) -> StudyRow:
        _affordable(point, limit)
        case = point.size, point.patches, point.dtype, repeat
        cost = asdict(
            forward_benchmark.in_own_process(point.patches, forward_benchmark.measure, *case)
        )
        return {name: x for name, x in cost.items() if name not in Point._fields}

    return work


def _affordable(point: Point, limit: float) -> None:
    """Fails where a pass would take too long or too much memory, by what it needs at least."""
    model = _model(point)
    seconds = flops.forward(model, point.patches).total / _matmul_peak()
    require(
        seconds <= limit,
        f"a pass would take {format_duration(seconds)} at least, at the rate of this machine's products "
        f"of matrices: raise --limit {limit:g}",
    )
    counts = _counts(point)
    layers = (
        2 * len(model.dpt_layers) * counts["tokens"] * model.width * np.dtype(model.dtype).itemsize
    )
    needed, there = layers + 4 * counts["parameters"], free_memory()
    require(
        needed <= there,
        f"a pass would take {needed / GB:.1f} GB of memory at least: {there / GB:.1f} are left",
    )


@cache
def _matmul_peak() -> float:
    return matmul_peak()


def quality(where: Path, scenes: int) -> tuple[Callable[[Point], StudyRow], str]:
    """Scores of weights on analytic scenes, in grids they were not trained for; and their dtype."""
    refiner = load(where)
    require(isinstance(refiner, Refiner), f"{where} holds no refiner: give a run or its weights")

    def work(point: Point) -> StudyRow:
        split = fitted(
            RESOLUTIONS[point.resolution], point.patches, refiner.config.model.patch_size
        )
        config = on_scenes(refiner.config, RESOLUTIONS[point.resolution], split, scenes)
        subject = RefinerCandidates(Refiner(refiner.params, config), config)
        tally = Tally(subject.sides)
        for _ in evaluate(subject, open_prior_source(config, ""), config, tally):
            pass
        require(bool(tally.pictures), f"no scene could be scored: {tally.skipped}")
        return {
            "grid": f"{split[0]}x{split[1]}",
            "scenes": len(tally.pictures),
            **_columns(tally.means()),
        }

    return work, refiner.config.model.dtype


def _columns(means: dict) -> StudyRow:
    """Those of the scores that are defined, by column."""
    found = {
        f"{side}_{name}": means[side][kind].get(metric, math.nan)
        for side in ("coarse", "refined")
        for name, (kind, metric) in SCORES.items()
    }
    return {name: float(x) for name, x in found.items() if not math.isnan(x)}


def on_scenes(config: Config, size: tuple[int, int], split: tuple[int, int], scenes: int) -> Config:
    """An evaluation on scenes of that size, cut into just those patches, none of them pooled."""
    data = replace(config.data, source="scenes", path="", split="", priors_path="", size=size)
    cut = replace(config.eval, images=scenes, grid=split, overlap=0.0, pool=1)
    return replace(config, data=data, eval=cut)


def fitted(size: tuple[int, int], patches: int, process: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of that many patches, whose shape is as near to the network's as can be."""

    def stretch(rows: int) -> float:
        patch = size[0] / rows / (size[1] / (patches // rows))
        return abs(math.log(patch / (process[0] / process[1])))

    rows = min((n for n in range(1, patches + 1) if patches % n == 0), key=stretch)
    return rows, patches // rows
