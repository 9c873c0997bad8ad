"""Orbax checkpoints of a run."""

import dataclasses
import gc
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from urgt_jax.config import Config
from urgt_jax.config_files import flatten, from_json, to_json
from urgt_jax.distributed import all_agree, is_first_process, report, wait_for_all
from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder, write_text
from urgt_jax.training.step import State, abstract_state, digest, state_shardings

# Fields that a run may change when it goes on: where data lie, who prepares them, what is told and
# kept, and how the work is laid out (then with the same results up to rounding).
KEEP = 2  # newest checkpoints that are kept
ELSEWHERE = {
    "data.path", "data.priors_path", "data.workers", "data.max_unreadable",
    "mesh.data", "mesh.fsdp", "mesh.patch", "model.remat", "optim.accumulate",
    "optim.max_skipped_steps", "optim.skip_above_grad_norm",
    "train.save_every", "train.log_every", "train.tensorboard", "train.images_every",
}  # fmt: skip
# What may be wrong with a machine or a network while a checkpoint is read, and not with the files.
PASSING = re.compile(
    "RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|Permission denied|"
    "Stale file handle|Input/output error|Topology mismatch|out of memory"
)


class Checkpoints:
    """The checkpoints of a work directory, written in the background, atomically."""

    def __init__(self, workdir: Path, config: Config):
        self.config = config
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, step_prefix="step")
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
            report(f"checkpoint {step} in {self.manager.directory} is damaged ({problem})")
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
        if not all_agree(found is not None):
            return None, problem
        told, state = np.asarray(found.pop("digest")), State(**found)
        same = all_agree(np.array_equal(told, digest(state)))
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
        aside = make_folder(Path(self.manager.directory).parent / "damaged")
        if is_first_process():
            for step in steps:
                shutil.rmtree(aside / f"step_{step}", ignore_errors=True)
                shutil.move(Path(self.manager.directory) / f"step_{step}", aside)
        wait_for_all("damaged checkpoints are put aside")
        self.manager.reload()
        report(f"goes on from the one before; {aside} keeps what is damaged")

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


def claim(workdir: Path, config: Config) -> None:
    """Makes the work directory this configuration's, or fails if it is another's."""
    path = make_folder(workdir) / "config.json"
    if not path.exists():
        write_text(path, to_json(config))
        return
    saved = from_json(Config, path.read_text(), str(path))
    theirs, ours = (flatten(dataclasses.asdict(c)) for c in (saved, config))
    differing = sorted({name for name in ours if theirs[name] != ours[name]} - ELSEWHERE)
    if differing:
        raise UserError(
            f"{workdir} belongs to another configuration (differs in {', '.join(differing)}): "
            "choose another --workdir"
        )
