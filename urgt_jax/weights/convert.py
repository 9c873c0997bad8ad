"""Converts official checkpoints into weight files, and weight files back to official names."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from etils.epath import Path

from urgt_jax.config import Config
from urgt_jax.errors import printable, require
from urgt_jax.files import make_folder
from urgt_jax.models import refiner, registry
from urgt_jax.models.registry import FileConfig, abstract_params
from urgt_jax.progress import Progress
from urgt_jax.remote import is_remote
from urgt_jax.weights import detect, other_names, torch_names
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.tensors import Tensor, TensorFile
from urgt_jax.weights.torch_names import LAYOUTS, Rule
from urgt_jax.weights.weight_file import (
    CONFIG_KEY,
    UNUSED_PREFIX,
    check_tensors,
    config_metadata,
    flatten_params,
    list_misfits,
    read_config,
)

MAX_LISTED_NAMES = 12  # longer lists are shortened to counts

ReadArray = Callable[[], np.ndarray]


@dataclass
class ConversionPlan:
    """The content of the file to write. Its tensors are made when they are read."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    report: list[str] = field(default_factory=list)  # lines for the user


def convert(
    source: Path,
    target: Path,
    fields: Mapping[str, Any] | None = None,
    half: bool = False,
    take: str = "",
) -> None:
    """Converts an official checkpoint into a weight file, or a weight file to official names.

    `fields` are what the shapes of an official checkpoint cannot tell, under official names. `take`
    chooses one of several copies of the model. With `half`, a weight file stays one, in float16.
    """
    check_target(target)
    file = open_tensors(source)
    is_weight_file = CONFIG_KEY in file.metadata
    require(is_weight_file or not half, "--half needs a weight file of urgt_jax: convert first")
    require(
        not (is_weight_file and fields),
        f"--config is for official weights, but {source} holds its own configuration",
    )
    require(not (is_weight_file and take), f"--take is for checkpoints, but {source} has one model")
    if half:
        plan = to_half(file, source)
    elif is_weight_file:
        plan = to_official(file, source)
    else:
        config, plan = from_official(file.tensors, fields or {}, str(source), take)
        other_names.check_meaning(registry.kind_of(config), source)
    make_folder(target.parent)
    for line in plan.report:
        print(printable(line), flush=True)
    progress = Progress(f"writing {target.name}", len(plan.tensors))
    write_safetensors(target, plan.tensors, plan.metadata, progress)
    print(f"wrote and verified {target}: {len(plan.tensors)} tensors")


def check_target(target: Path) -> None:
    """Fails for a target that is meant to be a PyTorch file."""
    if is_remote(target):
        make_folder(target.parent)  # fails now if it cannot be written to
    require(
        target.suffix not in (".pth", ".pt"),
        f"{target}: only safetensors files are written. Pass {target.with_suffix('.safetensors')}; "
        "safetensors.torch.load_file opens it in torch.",
    )


def from_official(
    tensors: Mapping[str, Tensor], fields: Mapping[str, Any], where: str, take: str = ""
) -> tuple[FileConfig, ConversionPlan]:
    """The configuration of an official checkpoint, and the plan of its weight file."""
    tensors = other_names.official_names(tensors, where)
    kind, official, others = detect.detect_family(tensors, where, take)
    user_config = detect.UserConfig(fields, where)
    config = detect.INFER_CONFIG[kind](official, user_config)
    title = registry.FAMILIES[kind].title
    rules = torch_names.RULES[kind](config)
    params = abstract_params(registry.network_config(config))
    shapes = {name: x.shape for name, x in flatten_params(params).items()}
    initialized = _initialize_missing(config, official, shapes)

    # The official tensors that the rules need, and those that get initial values instead.
    expected = {}
    replaced = set()
    for rule in rules:
        shape = shapes[rule.ours]
        for name in torch_names.official_names(rule, shape):
            if rule.ours in initialized:
                replaced.add(name)
            else:
                expected[name] = torch_names.official_shape(rule, shape)

    # The official tensors that the checkpoint holds, without those that the rules leave out.
    unused = []
    dropped = []
    actual = {}
    for name, tensor in official.items():
        if name in replaced:
            continue
        if name not in expected and _matches(torch_names.UNUSED_TENSORS, name):
            unused.append(name)
        elif name not in expected and _matches(torch_names.DROPPED_TENSORS, name):
            dropped.append(name)
        else:
            actual[name] = tensor.shape
    misfits = list_misfits(expected, actual)
    require(not misfits, f"{where} is {title}, but does not fit: {misfits}")

    plan = ConversionPlan(config_metadata(config))
    for rule in rules:
        shape = shapes[rule.ours]
        if rule.ours in initialized:
            read = initialized[rule.ours]
        else:
            read = _parameter_reader(rule, shape, official, where)
        plan.tensors[rule.ours] = Tensor(shape, np.dtype(np.float32), read)
    for name in unused:
        plan.tensors[UNUSED_PREFIX + name] = official[name]
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    plan.report.append(f"{title}: {num_parameters / 1e6:.2f} M parameters")
    for label, names in (
        ("not used, fields of --config that this model does not have", user_config.unused),
        ("kept for the export, no output depends on them", unused),
        ("dropped, the model has no such part", dropped),
        ("ignored, not part of the model", others),
        ("not taken from the checkpoint, initialized as for training", sorted(replaced)),
    ):
        if names:
            plan.report.append(f"{label}: {_summarize(names)}")
    return config, plan


def _initialize_missing(
    config: FileConfig, official: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, ReadArray]:
    """Initial values for parameters of a refiner that its checkpoint does not hold, by name."""
    if not isinstance(config, Config):
        return {}
    initialized = {}
    if detect.lacks_priors(official):
        fresh = refiner.freshly_drawn_params(config.model)
        for name, array in flatten_params(fresh).items():
            initialized[name] = partial(np.asarray, array)
        return initialized
    # URGT with one output may lack the embedding of the other prior. Zeros make it ignore that one.
    for kind in ("depth", "normal"):
        if f"aggregator.patch_embed.patch_embed_{kind}.proj.weight" not in official:
            for leaf in ("kernel", "bias"):
                name = f"encoder.{kind}.proj.{leaf}"
                initialized[name] = partial(np.zeros, shapes[name], np.float32)
    return initialized


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _summarize(names: list[str]) -> str:
    """The names in one line; many names are counted by their first part."""
    if len(names) > MAX_LISTED_NAMES:
        counts = Counter(name.split(".")[0] for name in names)
        names = [f"{part}.* ({count})" for part, count in counts.items()]
    return ", ".join(names)


def _parameter_reader(
    rule: Rule, shape: tuple[int, ...], official: Mapping[str, Tensor], where: str
) -> ReadArray:
    """A function that makes one parameter of ours from its official tensors."""

    def read_official(name: str) -> np.ndarray:
        array = official[name].read().astype(np.float32, copy=False)
        require(np.isfinite(array).all(), f"{name} in {where} has NaN or infinite values")
        return array

    return partial(torch_names.gather, rule, shape, read_official)


def to_official(file: TensorFile, path: Path) -> ConversionPlan:
    """The plan of a file with official names, from a weight file."""
    kind, config = read_config(file, path)
    check_tensors(file.tensors, config, path)
    plan = ConversionPlan(metadata={"format": "pt"})
    for rule in torch_names.RULES[kind](config):
        parameter = file.tensors[rule.ours]
        shape = torch_names.official_shape(rule, parameter.shape)
        for block, name in enumerate(torch_names.official_names(rule, parameter.shape)):
            read = _official_reader(rule, parameter, block)
            plan.tensors[name] = Tensor(shape, parameter.dtype, read)
    for name, tensor in file.tensors.items():
        if name.startswith(UNUSED_PREFIX):
            plan.tensors[name.removeprefix(UNUSED_PREFIX)] = tensor
    for name, shape in torch_names.required_unused_shapes(config).items():
        if name not in plan.tensors:
            read = partial(np.zeros, shape, np.float32)
            plan.tensors[name] = Tensor(shape, np.dtype(np.float32), read)
    title = registry.FAMILIES[kind].title
    plan.report.append(f"official names of {title}: {len(plan.tensors)} tensors")
    return plan


def _official_reader(rule: Rule, parameter: Tensor, block: int) -> ReadArray:
    """A function that makes one official tensor from a parameter of ours."""

    def read() -> np.ndarray:
        array = parameter.read_entry(block) if rule.is_stacked else parameter.read()
        return np.ascontiguousarray(LAYOUTS[rule.layout].to_official(array))

    return read


def to_half(file: TensorFile, path: Path) -> ConversionPlan:
    """The plan of the same weight file in float16, which keeps three digits."""

    def read_half(name: str) -> np.ndarray:
        with np.errstate(over="ignore"):  # the next line reports it
            half = file.tensors[name].read().astype(np.float16)
        require(np.isfinite(half).all(), f"{name} in {path} has values that float16 cannot hold")
        return half

    plan = ConversionPlan(file.metadata)
    for name, tensor in file.tensors.items():
        plan.tensors[name] = Tensor(tensor.shape, np.dtype(np.float16), partial(read_half, name))
    plan.report.append(f"{len(plan.tensors)} tensors in float16")
    return plan
