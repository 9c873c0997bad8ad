"""Orbax checkpoints of a run, and weight files that carry their configuration."""

import dataclasses
import difflib
import gc
import json
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from urgt_jax import config as configs
from urgt_jax.config import Config, require
from urgt_jax.errors import UserError
from urgt_jax.files import folder, write_text
from urgt_jax.model import families, refiner
from urgt_jax.model.families import structure
from urgt_jax.processes import agreed, first, say, together
from urgt_jax.step import State, abstract_state, digest, state_shardings
from urgt_jax.tensorfiles import TensorFile, open_tensors, write_safetensors

ENTRY = "urgt_jax"  # of the metadata of weight files
SHIPPED = Path(__file__).parent / "shipped"
# Fields that a run may change when it goes on: where data lie, who prepares them, what is told and
# kept, and how the work is laid out (then with the same results up to rounding).
ELSEWHERE = {
    "data.path", "data.priors", "data.workers", "data.threads", "data.unreadable",
    "mesh.data", "mesh.fsdp", "mesh.patch", "model.remat", "model.unroll", "optim.accumulate",
    "optim.skips", "optim.explodes",
    "train.save_every", "train.keep", "train.log_every", "train.tensorboard", "train.pictures",
}  # fmt: skip
# What may be wrong with a machine or a network while a checkpoint is read, and not with the files.
PASSING = re.compile(
    "RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|Permission denied|"
    "Stale file handle|Input/output error|Topology mismatch|out of memory"
)
UNUSED = "unused."  # before official names of tensors that only travel along


class Checkpoints:
    """The checkpoints of a work directory, written in the background, atomically."""

    def __init__(self, workdir: Path, config: Config):
        self.config = config
        options = ocp.CheckpointManagerOptions(max_to_keep=config.train.keep, step_prefix="step")
        self.manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(), options=options, item_names=("state",)
        )

    def save(self, state: State, step: int) -> None:
        """Starts to save the state that `step` steps led to; an error of the save before comes up.

        The digest goes with it, since the files' own check sums do not cover arrays.
        """
        if step in self.manager.all_steps():
            return
        tree = {**_present(state), "digest": digest(state)}
        with self._writing():
            self.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree)))

    def restore(self, mesh: Mesh) -> State | None:
        """The newest state that can be read, laid out over the mesh; None before the first.

        What is newer and damaged is put aside into the folder `damaged`.
        """
        steps, damaged = sorted(self.manager.all_steps(), reverse=True), []
        for step in steps:
            state, problem = self._read(step, mesh)
            if state is not None:
                self._put_aside(damaged)
                return state
            damaged.append(step)
            say(f"checkpoint {step} in {self.manager.directory} is damaged ({problem})")
        require(
            not steps,
            f"no checkpoint in {self.manager.directory} can be read: they are damaged or of another"
            " program, and nothing was moved; another --workdir starts from the beginning",
        )
        return None

    def _read(self, step: int, mesh: Mesh) -> tuple[State | None, str]:
        """A state, or None and why not; all processes agree which."""
        shapes, layout = abstract_state(self.config), state_shardings(self.config, mesh)
        placed = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)  # noqa: E731
        target = _present(jax.tree.map(placed, shapes, layout))
        # Laid out on this mesh, or Orbax would ask for the one that it was saved from.
        told, whole = jax.eval_shape(digest, shapes), NamedSharding(mesh, PartitionSpec())
        target["digest"] = jax.ShapeDtypeStruct(told.shape, told.dtype, sharding=whole)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        found, problem = None, "in another process"
        try:
            with _quiet():
                found = self.manager.restore(step, args=args)["state"]
        except Exception as error:  # of many kinds, from files, JSON, TensorStore and Orbax
            self._raise_unless_damaged(step, error)
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        if not agreed(found is not None):
            return None, problem
        told, state = np.asarray(found.pop("digest")), State(**found)
        same = agreed(np.array_equal(told, digest(state)))
        return (state, "") if same else (None, "its content has changed")

    def _raise_unless_damaged(self, step: int, error: Exception) -> None:
        """Fails where another try may succeed, so that no good checkpoint is put aside."""
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 9:
            chain.append(cause)
        here = [e for e in chain if isinstance(e, (OSError, MemoryError))]
        here = [e for e in here if not isinstance(e, FileNotFoundError)]
        found = PASSING.search(" ".join(map(str, chain)))
        if here or found:
            why = found[0] if found else f"{type(here[0]).__name__}: {here[0]}"
            raise UserError(
                f"checkpoint {step} in {self.manager.directory} cannot be read now ({why}); "
                "nothing was moved: the same command goes on once it can"
            ) from error

    def _put_aside(self, steps: list[int]) -> None:
        """Moves checkpoints out of the way, so that their steps can be saved again."""
        if not steps:
            return
        aside = folder(Path(self.manager.directory).parent / "damaged")
        if first():
            for step in steps:
                shutil.rmtree(aside / f"step_{step}", ignore_errors=True)
                shutil.move(Path(self.manager.directory) / f"step_{step}", aside)
        together("damaged checkpoints are put aside")
        self.manager.reload()
        say(f"goes on from the one before; {aside} keeps what is damaged")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells in one line what went wrong while a checkpoint was written."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of devices or other processes, not of the disk
            raise
        except Exception as error:
            found = re.search(
                r"No space left|quota exceeded|Read-only|Permission|too large", str(error)
            )
            why = found[0] if found else f"{type(error).__name__}: {str(error)[:300]}"
            kept = max(self.manager.all_steps(), default=None)
            raise UserError(
                f"no checkpoint could be written to {self.manager.directory} ({why}): "
                + (f"step {kept} is kept, and " if kept else "")
                + "the same command goes on once there is room"
            ) from error

    def preempted(self, step: int) -> bool:
        """Whether any process was told to go; the same answer in all of them."""
        return self.manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until everything is on disk."""
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and ends the work on it."""
        self.wait()
        self.manager.close()


def _present(state: State) -> dict:
    """The parts of a state by name, without what this run has none of."""
    return {name: part for name, part in state._asdict().items() if part is not None}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what is left behind by reads that another read's error broke off."""
    hook, log = sys.unraisablehook, logging.getLogger("asyncio")
    sys.unraisablehook, log.disabled = lambda _: None, True
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook, log.disabled = hook, False


def flat(params: dict) -> dict:
    """Leaves by their dotted names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in leaves}


def description(config) -> dict[str, str]:
    """What a weight file carries beside its tensors: the kind of model and its configuration."""
    # One entry only: safetensors writes several in an order that changes from run to run.
    told = {"kind": families.kind_of(config), **dataclasses.asdict(config)}
    return {ENTRY: json.dumps(told, indent=1)}


def save_weights(path: Path, params: dict, config) -> None:
    """One safetensors file: our names, and the configuration in the metadata.

    All processes of a run must call it; the first one writes.
    """
    arrays = {name: _whole(x) for name, x in flat(params).items()}
    if not first():
        return
    shapes = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    write_safetensors(path, shapes, arrays.__getitem__, description(config))


def _whole(x) -> np.ndarray:
    """An array of which this process may hold a part only."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def load_weights(path: str | Path, kind: str = "refiner") -> tuple[dict, object]:
    """Weights and configuration of a model, from a file or from a run's work directory."""
    path = located(path)
    file = open_tensors(path)
    found, config = described(file, path)
    if found != kind:
        titles = families.FAMILIES[found].title, families.FAMILIES[kind].title
        raise UserError(f"{path} holds weights of {titles[0]}, but {titles[1]} is asked for here")
    shapes = structure(families.network(config))[1]
    return _fill(shapes, file.tensors, path), config


def start_from(params: dict, config: Config) -> dict:
    """Drawn weights with those of `config.init` in their place: a whole refiner or the encoder."""
    path = located(config.init)
    if kind_in(path) == "refiner":
        return _laid_out(load_weights(path)[0], params, path)
    encoder, _ = load_weights(path, "encoder")
    # Beside pretrained weights the priors start near zero, so that they disturb nothing.
    encoder |= refiner.fresh(config.model)["encoder"]
    return {**params, "encoder": _laid_out(encoder, params["encoder"], path)}


def _laid_out(found: dict, params: dict, path: Path) -> dict:
    """Weights in the place of others, on their devices; fails unless names and shapes agree."""
    problems = misfits(*({n: x.shape for n, x in flat(tree).items()} for tree in (params, found)))
    require(not problems, f"init: {path} does not fit the model of this configuration: {problems}")
    return jax.tree.map(lambda x, place: jax.device_put(x, place.sharding), found, params)


def shipped() -> dict[str, Path]:
    """The weight files that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def located(path: str | Path) -> Path:
    """The weight file at a path, of a name that is shipped, or in the work directory of a run."""
    path = Path(path)
    if not path.exists() and str(path) in shipped():
        return shipped()[str(path)]
    path = path / "weights.safetensors" if path.is_dir() else path
    near = difflib.get_close_matches(str(path), shipped(), 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else "train or convert first, or give another file"
    require(path.is_file(), f"no weights at {path}: {hint}")
    return path


def kind_in(path: str | Path) -> str:
    """The kind of model in a weight file or a work directory."""
    path = located(path)
    return described(open_tensors(path), path)[0]


def described(file: TensorFile, path: Path):
    """The kind of model and the configuration that a weight file carries."""
    if ENTRY not in file.metadata:
        raise UserError(
            f"{path} carries no configuration, so it was not written by urgt_jax: official "
            f"weights go through `python -m urgt_jax.convert {path} NEW.safetensors` first"
        )
    try:
        told = json.loads(file.metadata[ENTRY])
        kind = told.pop("kind")
        family = families.FAMILIES[kind]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} carries a configuration of another program: {error!r}") from error
    return kind, configs.from_json(family.config, json.dumps(told), str(path))


def _fill(shapes: dict, tensors: dict, path: Path) -> dict:
    """The tensors in the model's tree; all that does not fit is told at once."""
    wanted = flat(shapes)
    problems = misfits(
        {name: x.shape for name, x in wanted.items()},
        {name: x.shape for name, x in tensors.items() if not name.startswith(UNUSED)},
    )
    if problems:
        raise UserError(f"{path} does not fit its own configuration: {problems}")
    # One by one, each waited for, so that a large model is not held twice.
    leaves = [
        jax.block_until_ready(jnp.asarray(tensors[name].read(), x.dtype))
        for name, x in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def misfits(wanted: dict[str, tuple], found: dict[str, tuple]) -> str:
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


def claim(workdir: Path, config: Config) -> None:
    """Makes the work directory this configuration's, or fails if it is another's."""
    path = folder(workdir) / "config.json"
    if not path.exists():
        write_text(path, configs.to_json(config))
        return
    saved = configs.from_json(Config, path.read_text(), str(path))
    theirs, ours = (configs.flattened(dataclasses.asdict(c)) for c in (saved, config))
    differing = sorted({name for name in ours if theirs[name] != ours[name]} - ELSEWHERE)
    if differing:
        raise UserError(
            f"{workdir} belongs to another configuration (differs in {', '.join(differing)}): "
            "choose another --workdir"
        )
