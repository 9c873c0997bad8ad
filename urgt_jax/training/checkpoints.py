"""Orbax checkpoints of a run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils.epath import Path
from jax.sharding import Mesh, NamedSharding

from urgt_jax.config import Config
from urgt_jax.distributed import all_agree, is_first_process, report, wait_for_all
from urgt_jax.errors import UserError, require
from urgt_jax.files import make_folder
from urgt_jax.remote import absolute, move_folder, scheme
from urgt_jax.training.checkpoint_mirror import ORBAX_SCHEMES, PREFIX, CheckpointMirror
from urgt_jax.training.orbax_errors import discard_failed_tasks
from urgt_jax.training.sharding import REPLICATED
from urgt_jax.training.step import State, abstract_state, digest, state_shardings
from urgt_jax.training.workdir import Lock, check_lock

MAX_TO_KEEP = 2  # the newest checkpoints
StepMetrics = dict[str, float]  # of one step, by name; empty if the step was skipped

# Errors of the machine or the network while a checkpoint is read. They say nothing about its files.
TEMPORARY_ERRORS = re.compile(
    "RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|Permission denied|"
    "Stale file handle|Input/output error|Topology mismatch|out of memory"
)
WRITE_ERRORS = re.compile("No space left|quota exceeded|Read-only|Permission|too large")


class RunLog(NamedTuple):
    """What the lines of the log after a checkpoint need of the steps before it."""

    unlogged: Sequence[StepMetrics] = ()  # of the steps that are in no line of the log yet
    recent: Sequence[StepMetrics] = ()  # of the last steps in it, which spikes are compared with


EMPTY_LOG = RunLog()


class Checkpoints:
    """The checkpoints of a work directory, written atomically and in the background."""

    def __init__(self, workdir: Path, config: Config, lock: Lock | None = None):
        self.config = config
        self.workdir = workdir
        self.lock = lock
        self.folder = absolute(workdir / "checkpoints")
        self.mirror: CheckpointMirror | None = None
        folder = self.folder
        if scheme(folder) not in ORBAX_SCHEMES:
            self.mirror = CheckpointMirror(folder)
            folder = self.mirror.local
        options = ocp.CheckpointManagerOptions(max_to_keep=MAX_TO_KEEP, step_prefix=PREFIX)
        self.manager = ocp.CheckpointManager(folder, options=options, item_names=("state", "log"))
        self.log = EMPTY_LOG  # of the restored state
        self.is_closed = False

    def save(self, state: State, step: int, log: RunLog = EMPTY_LOG) -> None:
        """Start to save the state after `step` steps; raises the error of an earlier save.

        The digest is saved with it, because the checksums of the files do not cover the arrays.
        """
        if step in self.manager.all_steps():
            return
        check_lock(self.lock, self.workdir)
        tree = {**state._asdict(), "digest": digest(state)}
        with self._report_write_errors():
            args = ocp.args.Composite(
                state=ocp.args.StandardSave(tree),
                log=ocp.args.JsonSave(log._asdict()),
            )
            self.manager.save(step, args=args)
            if self.mirror is not None:
                self.manager.wait_until_finished()
                self.mirror.upload()

    def restore(self, mesh: Mesh) -> State | None:
        """The newest readable state, sharded over the mesh; None if nothing was saved.

        Newer checkpoints that are damaged are moved to the folder `damaged`.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        damaged = []
        for step in steps:
            state, problem = self._read(step, mesh)
            if state is not None:
                self._move_damaged(damaged)
                self.log = self._read_log(step)
                return state
            damaged.append(step)
            report(f"checkpoint {step} in {self.folder} is damaged ({problem})")
        require(
            not steps,
            f"no checkpoint in {self.folder} can be read: they are damaged or were written by "
            "another program. Nothing was moved. Choose another --workdir to start from the "
            "beginning.",
        )
        return None

    def _read(self, step: int, mesh: Mesh) -> tuple[State | None, str]:
        """A state, or None and the problem; the same in all processes."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(self._target(mesh)))
        tree = None
        problem = "in another process"
        try:
            tree = self.manager.restore(step, args=args)["state"]
        except Exception as error:  # many types, from files, JSON, TensorStore and Orbax
            discard_failed_tasks()
            self._raise_if_temporary(step, error)
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        if not all_agree(tree is not None):
            return None, problem
        saved_digest = np.asarray(tree.pop("digest"))
        state = State(**tree)
        if not all_agree(np.array_equal(saved_digest, digest(state))):
            return None, "its content has changed"
        return state, ""

    def _read_log(self, step: int) -> RunLog:
        """What was saved of the log with a state; nothing, with a report, if it is damaged."""
        try:
            args = ocp.args.Composite(log=ocp.args.JsonRestore())
            values = self.manager.restore(step, args=args)["log"]
            return RunLog(_as_metrics(values["unlogged"]), _as_metrics(values["recent"]))
        except Exception as error:  # many types, from files, JSON and Orbax
            discard_failed_tasks()
            report(
                f"the next line of the log lacks steps before {step}, whose metrics cannot be read "
                f"({type(error).__name__}). The run itself is not affected"
            )
            return EMPTY_LOG

    def _target(self, mesh: Mesh) -> dict:
        """Shapes, dtypes and shardings of what is read.

        Without shardings, Orbax would ask for the mesh that the state was saved from.
        """
        state = abstract_state(self.config)
        state_digest = jax.eval_shape(digest, state)
        shapes = {**state._asdict(), "digest": state_digest}
        replicated = NamedSharding(mesh, REPLICATED)
        layout = {**state_shardings(self.config, mesh)._asdict(), "digest": replicated}

        def with_sharding(x: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(with_sharding, shapes, layout)

    def _raise_if_temporary(self, step: int, error: Exception) -> None:
        """Stop where another attempt may succeed, so that no good checkpoint is moved."""
        reason = _temporary_reason(error)
        if reason:
            raise UserError(
                f"checkpoint {step} in {self.folder} cannot be read now ({reason}). Nothing was "
                "moved. Run the same command again when it can be read."
            ) from error

    def _move_damaged(self, steps: list[int]) -> None:
        """Move damaged checkpoints to another folder, so that their steps can be saved again."""
        if not steps:
            return
        damaged = make_folder(self.folder.parent / "damaged")
        if is_first_process():
            for step in steps:
                name = f"{PREFIX}_{step}"
                (damaged / name).rmtree(missing_ok=True)
                move_folder(self.manager.directory / name, damaged / name)
            if self.mirror is not None:
                self.mirror.upload()
        wait_for_all("damaged checkpoints are moved")
        self.manager.reload()
        report(f"resuming from the checkpoint before; damaged checkpoints were moved to {damaged}")

    @contextmanager
    def _report_write_errors(self) -> Iterator[None]:
        """Turn an error while a checkpoint is written into a user error."""
        try:
            yield
        except UserError:
            raise
        except jax.errors.JaxRuntimeError:  # from devices or other processes, not from the disk
            raise
        except Exception as error:
            discard_failed_tasks()
            match = WRITE_ERRORS.search(str(error))
            reason = match[0] if match else f"{type(error).__name__}: {str(error)[:300]}"
            message = f"no checkpoint could be written to {self.folder} ({reason})."
            steps = self.manager.all_steps()
            if steps:
                message += f" The checkpoint of step {max(steps)} is intact."
            message += " Free some space and run the same command to resume."
            raise UserError(message) from error

    def preempted(self, step: int) -> bool:
        """Whether any process was asked to stop; the same answer in all of them."""
        return self.manager.reached_preemption(step)

    def wait(self) -> None:
        """Wait until everything is on disk."""
        with self._report_write_errors():
            self.manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is on disk, and end the threads that write."""
        if self.is_closed:
            return
        self.is_closed = True
        self.wait()
        self.manager.close()


def _as_metrics(steps: list[dict]) -> list[StepMetrics]:
    """Metrics of steps from JSON; fails if they are something else."""
    return [{str(name): float(value) for name, value in metrics.items()} for metrics in steps]


def _temporary_reason(error: Exception) -> str:
    """Why an error may pass by itself, from it and the errors that led to it; else nothing."""
    chain = []
    cause = error
    while cause is not None and len(chain) < 9:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    match = TEMPORARY_ERRORS.search(" ".join(str(cause) for cause in chain))
    if match:
        return match[0]
    for cause in chain:
        if isinstance(cause, OSError | MemoryError) and not isinstance(cause, FileNotFoundError):
            return f"{type(cause).__name__}: {cause}"
    return ""
