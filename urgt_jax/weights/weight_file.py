"""The weight file: one safetensors file with the model configuration in its metadata."""

import dataclasses
import difflib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from urgt_jax.config import Config
from urgt_jax.config_files import from_json
from urgt_jax.distributed import is_first_process
from urgt_jax.errors import UserError, require
from urgt_jax.models import refiner, registry
from urgt_jax.models.registry import abstract_params
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.tensors import TensorFile

CONFIG_KEY = "urgt_jax"  # of the metadata of weight files
SHIPPED = Path(__file__).parents[1] / "shipped"
UNUSED_PREFIX = "unused."  # before official names of tensors that only travel along


def flatten_params(params: dict) -> dict:
    """Leaves by their dotted names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def config_metadata(config) -> dict[str, str]:
    """What a weight file carries beside its tensors: the kind of model and its configuration."""
    # One entry only: safetensors writes several in an order that changes from run to run.
    told = {"kind": registry.kind_of(config), **dataclasses.asdict(config)}
    return {CONFIG_KEY: json.dumps(told, indent=1)}


def save_weights(path: Path, params: dict, config) -> None:
    """One safetensors file: our names, and the configuration in the metadata.

    All processes of a run must call it; the first one writes.
    """
    arrays = {name: _whole(x) for name, x in flatten_params(params).items()}
    if not is_first_process():
        return
    shapes = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    write_safetensors(path, shapes, arrays.__getitem__, config_metadata(config))


def _whole(x) -> np.ndarray:
    """An array of which this process may hold a part only."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def load_weights(path: str | Path, kind: str = "refiner") -> tuple[dict, object]:
    """Weights and configuration of a model, from a file or from a run's work directory."""
    path = locate_weights(path)
    file = open_tensors(path)
    found, config = read_config(file, path)
    if found != kind:
        titles = registry.FAMILIES[found].title, registry.FAMILIES[kind].title
        raise UserError(f"{path} holds weights of {titles[0]}, but {titles[1]} is asked for here")
    shapes = abstract_params(registry.network_config(config))
    return _fill(shapes, file.tensors, path), config


def initialize_from(params: dict, config: Config) -> dict:
    """Drawn weights with those of `config.init` in their place: a whole refiner or the encoder."""
    path = locate_weights(config.init)
    if weights_kind(path) == "refiner":
        return _laid_out(load_weights(path)[0], params, path)
    encoder, _ = load_weights(path, "encoder")
    # Beside pretrained weights the priors start near zero, so that they disturb nothing.
    encoder |= refiner.freshly_drawn_params(config.model)["encoder"]
    return {**params, "encoder": _laid_out(encoder, params["encoder"], path)}


def _laid_out(found: dict, params: dict, path: Path) -> dict:
    """Weights in the place of others, on their devices; fails unless names and shapes agree."""
    problems = list_misfits(
        *({n: x.shape for n, x in flatten_params(tree).items()} for tree in (params, found))
    )
    require(not problems, f"init: {path} does not fit the model of this configuration: {problems}")
    return jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), found, params)


def shipped_weights() -> dict[str, Path]:
    """The weight files that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def locate_weights(path: str | Path) -> Path:
    """The weight file at a path, of a name that is shipped, or in the work directory of a run."""
    path = Path(path)
    if not path.exists() and str(path) in shipped_weights():
        return shipped_weights()[str(path)]
    path = path / "weights.safetensors" if path.is_dir() else path
    near = difflib.get_close_matches(str(path), shipped_weights(), 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else "train or convert first, or give another file"
    require(path.is_file(), f"no weights at {path}: {hint}")
    return path


def weights_kind(path: str | Path) -> str:
    """The kind of model in a weight file or a work directory."""
    path = locate_weights(path)
    return read_config(open_tensors(path), path)[0]


def read_config(file: TensorFile, path: Path):
    """The kind of model and the configuration that a weight file carries."""
    if CONFIG_KEY not in file.metadata:
        raise UserError(
            f"{path} carries no configuration, so it was not written by urgt_jax: official "
            f"weights go through `urgt convert {path} NEW.safetensors` first"
        )
    try:
        told = json.loads(file.metadata[CONFIG_KEY])
        kind = told.pop("kind")
        family = registry.FAMILIES[kind]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} carries a configuration of another program: {error!r}") from error
    return kind, from_json(family.config, json.dumps(told), str(path))


def _fill(shapes: dict, tensors: dict, path: Path) -> dict:
    """The tensors in the model's tree; all that does not fit is told at once."""
    wanted = flatten_params(shapes)
    problems = list_misfits(
        {name: x.shape for name, x in wanted.items()},
        {name: x.shape for name, x in tensors.items() if not name.startswith(UNUSED_PREFIX)},
    )
    if problems:
        raise UserError(f"{path} does not fit its own configuration: {problems}")
    # One by one, each waited for, so that a large model is not held twice.
    leaves = [
        jax.block_until_ready(jnp.asarray(tensors[name].read(), x.dtype))
        for name, x in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def list_misfits(wanted: dict[str, tuple], found: dict[str, tuple]) -> str:
    """All missing, unexpected and mis-shaped names in one line; empty where all fits."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    wrong = [
        f"{name} {found[name]} for {wanted[name]}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    problems = {"missing": missing, "unexpected": extra, "of another shape": wrong}
    return "; ".join(f"{len(n)} {what} ({', '.join(n)})" for what, n in problems.items() if n)
