"""Orbax checkpoints of a run, and weight files that carry their configuration."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from urgt_jax import config as configs
from urgt_jax.config import Config
from urgt_jax.errors import UserError
from urgt_jax.files import folder, replacing, write_text
from urgt_jax.step import State, abstract_state, state_shardings, structure


class Checkpoints:
    """The checkpoints of a work directory, written in the background, atomically."""

    def __init__(self, workdir: Path, config: Config):
        self.config = config
        options = ocp.CheckpointManagerOptions(max_to_keep=config.train.keep, step_prefix="step")
        self.manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(), options=options, item_names=("state",)
        )

    def latest(self) -> int | None:
        """The newest complete step, None before the first."""
        return self.manager.latest_step()

    def save(self, state: State, step: int) -> None:
        """Starts to save the state that `step` steps led to."""
        if step not in self.manager.all_steps():
            args = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()))
            self.manager.save(step, args=args)

    def restore(self, mesh: Mesh) -> State:
        """The newest state, laid out over the mesh."""
        shapes, layout = abstract_state(self.config), state_shardings(self.config, mesh)
        target = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, layout
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target._asdict()))
        try:
            return State(**self.manager.restore(self.latest(), args=args)["state"])
        except Exception as error:
            raise UserError(
                f"checkpoint {self.latest()} in {self.manager.directory} cannot be read "
                f"({type(error).__name__}): it is damaged or of another program; "
                "remove that step's folder to go on from the one before"
            ) from error

    def close(self) -> None:
        """Waits until everything is on disk."""
        self.manager.wait_until_finished()
        self.manager.close()


def _flat(params: dict) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def save_weights(path: Path, params: dict, config: Config) -> None:
    """One safetensors file: our names, and the configuration in the metadata."""
    arrays = {name: np.asarray(x) for name, x in _flat(params).items()}
    with replacing(path) as file:
        # One entry only: safetensors writes several in an order that changes from run to run.
        file.write(save(arrays, {"config": configs.to_json(config)}))


def load_weights(path: str | Path) -> tuple[dict, Config]:
    """Weights and configuration from a file, or from the work directory of a run."""
    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no weights at {path}: train first, or give --weights another file")
    try:
        with safe_open(path, "numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error
    if "config" not in meta:
        raise UserError(f"{path} carries no configuration: it was not written by urgt_jax")
    config = configs.from_json(Config, meta["config"], str(path))
    shapes = structure(config.model)[1]
    return _fill(shapes, arrays, path), config


def _fill(shapes: dict, arrays: dict, path: Path) -> dict:
    """The arrays in the model's tree; all that does not fit is told at once."""
    wanted = _flat(shapes)
    missing = sorted(set(wanted) - set(arrays))
    extra = sorted(set(arrays) - set(wanted))
    wrong = [n for n in wanted if n in arrays and wanted[n].shape != arrays[n].shape]
    problems = {"missing": missing, "unexpected": extra, "of another shape": wrong}
    told = [f"{len(n)} {what} ({', '.join(n[:5])})" for what, n in problems.items() if n]
    if told:
        raise UserError(f"{path} does not fit its own configuration: {'; '.join(told)}")
    leaves = [arrays[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def claim(workdir: Path, config: Config) -> None:
    """Makes the work directory this configuration's, or fails if it is another's."""
    path = folder(workdir) / "config.json"
    if not path.exists():
        write_text(path, configs.to_json(config))
        return
    saved = configs.from_json(Config, path.read_text(), str(path))
    theirs, ours = dataclasses.asdict(saved), dataclasses.asdict(config)
    differing = sorted(_differences(theirs, ours))
    if differing:
        raise UserError(
            f"{workdir} belongs to another configuration (differs in {', '.join(differing)}): "
            "choose another --workdir"
        )


def _differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    found = []
    for name in sorted(set(a) | set(b)):
        one, two = a.get(name), b.get(name)
        if isinstance(one, dict) and isinstance(two, dict):
            found += _differences(one, two, f"{prefix}{name}.")
        elif one != two:
            found.append(prefix + name)
    return found
