"""Several processes that train together: how they connect, what they print, and how they end."""

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

# Seconds of silence after which a process counts as dead, and seconds that the others wait for it
# at the end. Together they bound the time in which all processes end after one has failed.
TIMEOUTS = {"heartbeat_timeout_seconds": 60, "shutdown_timeout_seconds": 45}
LOST_PROCESS = (
    "another process has died or does not answer (see its own output). Start all of them again "
    "with the same command to resume from the last checkpoint."
)
# Words in a runtime error that point to another process, not to this one's memory or program.
OTHER_PROCESS = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Cc]onnection|Gloo")

_monitors: list[subprocess.Popen] = []  # one, if this is one of several processes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that connect a process to the others."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, which JAX connects by itself: on TPU pod slices, under "
        "SLURM or under Open MPI",
    )
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, if JAX cannot discover it",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="number of processes (with --coordinator)",
    )
    parser.add_argument(
        "--process",
        type=int,
        metavar="I",
        help="number of this process, from 0 (with --coordinator)",
    )


def connect(args: argparse.Namespace) -> None:
    """Connect to the other processes; must come before the first use of a device."""
    options = (args.coordinator, args.processes, args.process)
    present = [option is not None for option in options]
    require(
        all(present) or not any(present),
        "--coordinator, --processes and --process must be used together",
    )
    if args.coordinator:
        require(
            0 <= args.process < args.processes,
            f"--process {args.process} must be from 0 to --processes - 1 = {args.processes - 1}",
        )
        jax.distributed.initialize(args.coordinator, args.processes, args.process, **TIMEOUTS)
    elif args.distributed:
        jax.distributed.initialize(**TIMEOUTS)
    else:
        return
    if jax.process_count() > 1:
        _start_monitor()


def _start_monitor() -> None:
    """Start a program that prints one line if this process is killed.

    JAX aborts a process when another one has died, and prints a stack trace but no explanation.
    """
    program = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
    message = f"error: process {jax.process_index()} was killed, or {LOST_PROCESS}"
    monitor = subprocess.Popen(
        [sys.executable, "-S", "-c", program, message],
        stdin=subprocess.PIPE,
        start_new_session=True,  # so that a signal to the group of this process does not end it
    )
    _monitors.append(monitor)
    atexit.register(_stop_monitor)


def _stop_monitor() -> None:
    """Tell the program that this process ends by itself."""
    while _monitors:
        _monitors.pop().communicate(b".")


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit status; one of several processes exits if it fails."""
    try:
        status = exit_status(command)
    except jax.errors.JaxRuntimeError as error:
        if not _monitors or not OTHER_PROCESS.search(str(error)):
            raise
        first_line = str(error).splitlines()[0][:300]
        print(f"error: {first_line}: {LOST_PROCESS}", file=sys.stderr)
        status = 3
    if status != 0 and _monitors:
        # A normal exit would wait for the other processes, which wait for this one.
        _stop_monitor()
        sys.stderr.flush()
        os._exit(status)
    return status


def is_first_process() -> bool:
    """Whether this is the process that writes logs and weights."""
    return jax.process_index() == 0


def report(text: str, everyone: bool = False) -> None:
    """Print a line: once for all processes, or from each of them with its number."""
    if everyone and jax.process_count() > 1:
        print(f"process {jax.process_index()}: {text}", flush=True)
    elif everyone or is_first_process():
        print(text, flush=True)


def all_agree(condition: bool) -> bool:
    """Whether the condition holds in all processes."""
    conditions = multihost_utils.process_allgather(np.asarray(condition))
    return bool(np.all(conditions))


def wait_for_all(what: str) -> None:
    """Wait until all processes have reached this point; `what` names it."""
    multihost_utils.sync_global_devices(what)
