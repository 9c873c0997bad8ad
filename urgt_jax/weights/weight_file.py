"""The weight file: one safetensors file with the configuration of the model in its metadata."""

import dataclasses
import difflib
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path, PathLike
from jax.experimental import multihost_utils

from urgt_jax.config import Config
from urgt_jax.config_files import from_json
from urgt_jax.distributed import is_first_process
from urgt_jax.errors import UserError, require
from urgt_jax.files import find_paths, parse_json
from urgt_jax.models import refiner, registry
from urgt_jax.models.registry import FileConfig, abstract_params
from urgt_jax.remote import open_path
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.tensors import Tensor, TensorFile, tensor_of

CONFIG_KEY = "urgt_jax"  # the metadata entry with the configuration
DEFAULT_WEIGHTS = "scenes"  # of the shipped ones, where nobody names any
SHIPPED = Path(__file__).parents[1] / "shipped"
MOST_NAMES = 8  # of each kind of misfit in an error
LONGEST_LIST = 220  # characters
UNUSED_PREFIX = "unused."  # before the official names of tensors that no output depends on

Shapes = Mapping[str, tuple[int, ...]]


def flatten_params(params: dict) -> dict[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]:
    """The parameters by their dotted names."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        flat[jax.tree_util.keystr(path, simple=True, separator=".")] = leaf
    return flat


def config_metadata(config: FileConfig) -> dict[str, str]:
    """The metadata of a weight file: the kind of model and its configuration as JSON."""
    fields = {"kind": registry.kind_of(config), **dataclasses.asdict(config)}
    return {CONFIG_KEY: json.dumps(fields, indent=1)}


def save_weights(path: Path, params: dict, config: FileConfig) -> None:
    """Writes a weight file. All processes of a run must call this; the first one writes."""
    tensors = {}
    for name, parameter in flatten_params(params).items():
        tensors[name] = tensor_of(_gather_shards(parameter))
    if is_first_process():
        write_safetensors(path, tensors, config_metadata(config))


def _gather_shards(array: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array, of which this process may hold a part only."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def load_weights(path: PathLike, kind: str = "refiner") -> tuple[dict, FileConfig]:
    """Loads the parameters and configuration of a model; `locate_weights` says what a path may be.

    Raises UserError if the file holds another kind of model than `kind`.
    """
    path = locate_weights(path)
    file = open_tensors(path)
    stored_kind, config = read_config(file, path)
    if stored_kind != kind:
        stored_title = registry.FAMILIES[stored_kind].title
        title = registry.FAMILIES[kind].title
        raise UserError(f"{path} holds weights of {stored_title}, but {title} is needed here")
    check_tensors(file.tensors, config, path)
    params = abstract_params(registry.network_config(config))
    leaves = []
    for name, parameter in flatten_params(params).items():
        array = jnp.asarray(file.tensors[name].read(), parameter.dtype)
        # Wait for each copy to the device, so that a large model is not in host memory twice.
        leaves.append(jax.block_until_ready(array))
    return jax.tree.unflatten(jax.tree.structure(params), leaves), config


def initialize_from(params: dict, config: Config) -> dict:
    """Replaces drawn parameters by those of the file `config.init`: a whole refiner or DINOv2."""
    path = locate_weights(config.init)
    if weights_kind(path) == "refiner":
        loaded, _ = load_weights(path)
        return _place_like(loaded, params, path)
    encoder, _ = load_weights(path, "encoder")
    # Next to pretrained weights, the embeddings of the priors start near zero and disturb nothing.
    encoder |= refiner.freshly_drawn_params(config.model)["encoder"]
    return {**params, "encoder": _place_like(encoder, params["encoder"], path)}


def _place_like(loaded: dict, params: dict, path: Path) -> dict:
    """Puts loaded parameters on the devices of others; fails unless names and shapes agree."""
    misfits = list_misfits(
        {name: x.shape for name, x in flatten_params(params).items()},
        {name: x.shape for name, x in flatten_params(loaded).items()},
    )
    require(not misfits, f"init: {path} does not fit the model of this configuration: {misfits}")

    def place(new: jax.Array, old: jax.Array) -> jax.Array:
        return jax.device_put(new, old.sharding)

    return jax.tree.map(place, loaded, params)


def shipped_weights() -> dict[str, Path]:
    """The weight files that come with the package, by name."""
    return {path.stem: path for path in find_paths(SHIPPED, "*.safetensors")}


def locate_weights(path: PathLike) -> Path:
    """The weight file at a path, in the work directory of a run, or of a name that is shipped.

    A path that begins with hf:// is a repository on the Hugging Face hub.
    """
    if str(path).startswith("hf:/"):
        from urgt_jax.weights.hub import fetch_repository  # it converts, and conversion loads

        return fetch_repository(str(path))
    path = open_path(path)
    shipped = shipped_weights()
    if not path.exists() and str(path) in shipped:
        return shipped[str(path)]
    if path.is_dir():
        path = path / "weights.safetensors"
    if path.is_file():
        return path
    similar = difflib.get_close_matches(str(path), shipped, n=1, cutoff=0.6)
    if similar:
        raise UserError(f"no weights at {path}; did you mean {similar[0]}?")
    raise UserError(
        f"no weights at {path}. Pass a weight file, the work directory of a finished run, or one "
        f"of the shipped weights: {', '.join(shipped)}."
    )


def weights_kind(path: PathLike) -> str:
    """The kind of model that a weight file or a work directory holds."""
    path = locate_weights(path)
    kind, _ = read_config(open_tensors(path), path)
    return kind


def read_config(file: TensorFile, path: Path) -> tuple[str, FileConfig]:
    """The kind of model and the configuration in the metadata of a weight file."""
    if CONFIG_KEY not in file.metadata:
        raise UserError(
            f"{path} has no configuration, so urgt_jax did not write it. "
            f"Convert official weights first: urgt convert {path} NEW.safetensors"
        )
    try:
        fields = parse_json(file.metadata[CONFIG_KEY])
        kind = fields.pop("kind")
        family = registry.FAMILIES[kind]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} has the configuration of another program: {error!r}") from error
    return kind, from_json(family.config, json.dumps(fields), str(path))


def check_tensors(tensors: Mapping[str, Tensor], config: FileConfig, path: Path) -> None:
    """Fails unless a weight file holds exactly the parameters of its configuration."""
    params = abstract_params(registry.network_config(config))
    misfits = list_misfits(
        {name: x.shape for name, x in flatten_params(params).items()},
        {name: x.shape for name, x in tensors.items() if not name.startswith(UNUSED_PREFIX)},
    )
    require(not misfits, f"{path} does not fit its own configuration: {misfits}")


def list_misfits(expected: Shapes, actual: Shapes) -> str:
    """Missing, unexpected and mis-shaped names in one line; empty if everything fits.

    All are counted. As many are named as an error line has room for.
    """
    misshaped = []
    for name, shape in expected.items():
        if name in actual and tuple(actual[name]) != tuple(shape):
            misshaped.append(f"{name} {actual[name]} instead of {shape}")
    problems = {
        "missing": [name for name in expected if name not in actual],
        "unexpected": [name for name in actual if name not in expected],
        "mis-shaped": misshaped,
    }
    text = ""
    for most in range(MOST_NAMES, 0, -1):
        parts = []
        for label, names in problems.items():
            if names:
                dots = ", ..." if len(names) > most else ""
                parts.append(f"{len(names)} {label} ({', '.join(names[:most])}{dots})")
        text = "; ".join(parts)
        if len(text) <= LONGEST_LIST:
            break
    return text
