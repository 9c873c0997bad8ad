"""Converts official checkpoints into weight files, and weight files back into official names."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from urgt_jax.config import Config
from urgt_jax.errors import require
from urgt_jax.files import make_folder
from urgt_jax.models import refiner, registry
from urgt_jax.models.registry import abstract_params
from urgt_jax.progress import Progress
from urgt_jax.weights import detect, torch_names
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors, write_torch
from urgt_jax.weights.tensors import Tensor
from urgt_jax.weights.weight_file import (
    CONFIG_KEY,
    UNUSED_PREFIX,
    config_metadata,
    flatten_params,
    list_misfits,
    read_config,
)

Read = Callable[[], np.ndarray]


@dataclass
class ConversionPlan:
    """What a file is going to hold: shapes by name, how each tensor is made, what to tell."""

    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def add(self, name: str, shape: tuple[int, ...], dtype, read: Read) -> None:
        """One more tensor."""
        self.shapes[name], self.reads[name] = (tuple(shape), np.dtype(dtype)), read


def from_official(tensors: dict[str, Tensor], given: dict, where: str):
    """The configuration of an official checkpoint, and the plan of our file."""
    kind, found, others = detect.detect_family(tensors, where)
    config = detect.INFER_CONFIG[kind](found, detect.UserConfig(given, where))
    title, rules = registry.FAMILIES[kind].title, torch_names.RULES[kind](config)
    shapes = {
        n: x.shape
        for n, x in flatten_params(abstract_params(registry.network_config(config))).items()
    }
    fresh = _fresh(config, found, shapes)
    wanted = _wanted(rules, shapes)
    drawn = {name for name, rule in wanted.items() if rule.ours in fresh}
    spare = [name for name in found if name not in wanted]
    unused = [name for name in spare if _matches(torch_names.UNUSED_TENSORS, name)]
    dropped = [name for name in spare if _matches(torch_names.DROPPED, name)]
    problems = list_misfits(
        {
            name: torch_names.official_shape(rule, shapes[rule.ours])
            for name, rule in wanted.items()
            if name not in drawn
        },
        {n: x.shape for n, x in found.items() if n not in {*drawn, *unused, *dropped}},
    )
    require(not problems, f"{where} is {title}, but does not fit: {problems}")
    plan = ConversionPlan()
    for rule in rules:
        read = fresh.get(rule.ours) or _gathering(rule, shapes[rule.ours], found, where)
        plan.add(rule.ours, shapes[rule.ours], np.float32, read)
    for name in unused:
        plan.add(UNUSED_PREFIX + name, found[name].shape, found[name].dtype, found[name].read)
    plan.told = [
        f"{title}: {sum(map(math.prod, shapes.values())) / 1e6:.2f} M parameters",
        *_listed("no output depends on these, kept for the way back", unused),
        *_listed("dropped, the model has no such part", dropped),
        *_listed("in the file, but not of the model", others),
        *_listed("drawn anew, as at the start of training", sorted(drawn)),
    ]
    return config, plan


def _wanted(rules: list[torch_names.Rule], shapes: dict) -> dict[str, torch_names.Rule]:
    """The official tensors that make our parameters."""
    return {
        name: rule for rule in rules for name in torch_names.official_names(rule, shapes[rule.ours])
    }


def _fresh(config, found: dict[str, Tensor], shapes: dict) -> dict[str, Read]:
    """What a refiner's checkpoint does not hold: all that VGGT lacks, or one prior's embedding."""
    if not isinstance(config, Config):
        return {}
    lacking = [
        kind
        for kind in ("depth", "normal")
        if f"aggregator.patch_embed.patch_embed_{kind}.proj.weight" not in found
    ]
    if len(lacking) == 2:
        return {
            n: partial(np.asarray, x)
            for n, x in flatten_params(refiner.freshly_drawn_params(config.model)).items()
        }
    # A model of depth alone may not see normals, which is what zeros mean.
    names = [f"encoder.{kind}.proj.{leaf}" for kind in lacking for leaf in ("kernel", "bias")]
    return {name: partial(np.zeros, shapes[name], np.float32) for name in names}


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _listed(what: str, names: list[str]) -> list[str]:
    """Names in one line, those of one part counted together where they are many."""
    if not names:
        return []
    if len(names) > 12:
        parts: dict[str, int] = {}
        for name in names:
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + 1
        names = [f"{part}.* ({count})" for part, count in parts.items()]
    return [f"{what}: {', '.join(names)}"]


def _gathering(rule: torch_names.Rule, shape, tensors: dict[str, Tensor], where: str) -> Read:
    """How one parameter of ours is read from official tensors."""

    def read_one(name: str) -> np.ndarray:
        x = tensors[name].read().astype(np.float32, copy=False)
        require(np.isfinite(x).all(), f"{name} in {where} has values that are NaN or infinite")
        return x

    return lambda: torch_names.gather(rule, shape, read_one)


def to_official(tensors: dict[str, Tensor], config) -> ConversionPlan:
    """The plan of a file with official names, from our tensors."""
    plan, kind = ConversionPlan(), registry.kind_of(config)
    for rule in torch_names.RULES[kind](config):
        mine = tensors[rule.ours]
        shape = torch_names.official_shape(rule, mine.shape)
        for i, name in enumerate(torch_names.official_names(rule, mine.shape)):
            part = i if "{}" in rule.theirs else None
            plan.add(name, shape, mine.dtype, _returning(rule, mine, part))
    for name, x in tensors.items():
        if name.startswith(UNUSED_PREFIX):
            plan.add(name.removeprefix(UNUSED_PREFIX), x.shape, x.dtype, x.read)
    for name, shape in torch_names.unused(config).items():
        if name not in plan.shapes:
            plan.add(name, shape, np.float32, partial(np.zeros, shape, np.float32))
    plan.told = [f"official names of {registry.FAMILIES[kind].title}: {len(plan.shapes)} tensors"]
    return plan


def _returning(rule: torch_names.Rule, mine: Tensor, part: int | None) -> Read:
    back = torch_names.FORMS[rule.form].back
    return lambda: np.ascontiguousarray(back(mine.read() if part is None else mine.part(part)))


def to_half(tensors: dict[str, Tensor], where: str) -> ConversionPlan:
    """The plan of the same file in float16, which rounds to a thousandth at most."""

    def read_one(name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # told below
            half = tensors[name].read().astype(np.float16)
        require(np.isfinite(half).all(), f"{name} in {where} has values that float16 cannot hold")
        return half

    plan = ConversionPlan(told=[f"{len(tensors)} tensors in float16"])
    for name, x in tensors.items():
        plan.add(name, x.shape, np.float16, partial(read_one, name))
    return plan


def convert(source: Path, target: Path, given: dict | None = None, half: bool = False) -> None:
    """Writes the target: ours from an official checkpoint, official from one of ours, or half."""
    file = open_tensors(source)
    make_folder(target.parent)
    require(not half or CONFIG_KEY in file.metadata, "--half is for files of ours: convert first")
    require(
        not given or CONFIG_KEY not in file.metadata,
        "--config is for official weights: ours carry their configuration",
    )
    if half:
        plan, metadata = to_half(file.tensors, str(source)), file.metadata
    elif CONFIG_KEY in file.metadata:
        config = read_config(file, source)[1]
        plan, metadata = to_official(file.tensors, config), {"format": "pt"}
    else:
        config, plan = from_official(file.tensors, given or {}, str(source))
        metadata = config_metadata(config)
    print("\n".join(plan.told), flush=True)
    progress = Progress(f"writing {target.name}", len(plan.shapes))
    done = iter(range(1, len(plan.shapes) + 1))

    def read(name: str) -> np.ndarray:
        progress.update(next(done))
        return plan.reads[name]()

    if target.suffix in (".pth", ".pt"):
        require(CONFIG_KEY not in metadata, f"{target}: our own files are .safetensors")
        write_torch(target, plan.shapes, read)
    else:
        write_safetensors(target, plan.shapes, read, metadata)
    print(f"wrote {target}: {len(plan.shapes)} tensors, read back and compared")
