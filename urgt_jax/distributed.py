"""Many processes, one run: how they find each other, and which of them speaks."""

import argparse
import atexit
import os
import re
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from urgt_jax.errors import exit_status, require

# Seconds without a word after which a process is taken for dead, and that others wait for it at the
# end: one that fails is followed by the rest in less than two minutes.
PATIENCE = {"heartbeat_timeout_seconds": 60, "shutdown_timeout_seconds": 45}
LOST = (
    "another one has died or does not answer (its own output says why); start all of them again "
    "with the same command: the run goes on from its last checkpoint"
)
# How a runtime's error tells of another process, rather than of this one's memory or program.
SIGNS = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Cc]onnection|Gloo")
_watches: list[subprocess.Popen] = []  # of this process, if it is one of several


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a process finds the others."""
    add = parser.add_argument
    add("--distributed", action="store_true", help="one of many processes, on a TPU pod slice, "
        "under SLURM or Open MPI, where JAX finds the others by itself")  # fmt: skip
    add("--coordinator", metavar="HOST:PORT", help="of process 0, where JAX cannot find it")
    add("--processes", type=int, metavar="N", help="with --coordinator: how many there are")
    add("--process", type=int, metavar="I", help="with --coordinator: which one this is, from 0")


def connect(told: argparse.Namespace) -> None:
    """Joins the other processes; must come before anything touches a device."""
    given = [x is not None for x in (told.coordinator, told.processes, told.process)]
    require(all(given) or not any(given), "--coordinator, --processes and --process go together")
    if told.coordinator:
        require(
            0 <= told.process < told.processes,
            f"--process {told.process} must be from 0 to --processes - 1 = {told.processes - 1}",
        )
        who = told.coordinator, told.processes, told.process
        jax.distributed.initialize(*who, **PATIENCE)
    elif told.distributed:
        jax.distributed.initialize(**PATIENCE)
    if (told.coordinator or told.distributed) and jax.process_count() > 1:
        _leave_last_words()


def _leave_last_words() -> None:
    """Has a line printed if this process ends without having come to its end.

    JAX aborts a process, with a stack trace, when it notices that another one has died.
    """
    program = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
    line = f"error: process {jax.process_index()} was ended, or {LOST}"
    # In a session of its own: what ends this process by a signal to its group must not end it.
    watch = subprocess.Popen(
        [sys.executable, "-S", "-c", program, line], stdin=subprocess.PIPE, start_new_session=True
    )
    _watches.append(watch)
    atexit.register(_silence)


def _silence() -> None:
    while _watches:
        _watches.pop().communicate(b".")


def run(command: Callable[[], None]) -> int:
    """Runs a command and returns its exit status; a process of several that fails ends at once."""
    try:
        status = exit_status(command)
    except jax.errors.JaxRuntimeError as error:
        if not _watches or not SIGNS.search(str(error)):
            raise
        print(f"error: {str(error).splitlines()[0][:300]}: {LOST}", file=sys.stderr)
        status = 3
    if status and _watches:
        # At a usual exit JAX would wait for the others, which wait for this one.
        _silence()
        sys.stderr.flush()
        os._exit(status)
    return status


def is_first_process() -> bool:
    """Whether this is the process that writes logs and weights."""
    return jax.process_index() == 0


def report(text: str, everyone: bool = False) -> None:
    """Prints a line, once for all processes, or in each that has something of its own to say."""
    if everyone and jax.process_count() > 1:
        print(f"process {jax.process_index()}: {text}", flush=True)
    elif everyone or is_first_process():
        print(text, flush=True)


def all_agree(mine: bool) -> bool:
    """Whether it is so in all processes."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(mine))))


def wait_for_all(what: str) -> None:
    """Waits until all processes are here."""
    multihost_utils.sync_global_devices(what)
