"""Several processes that train together: how they connect, what they print, and how they end."""

import argparse
import atexit
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from urgt_jax.errors import UserError, exit_status, print_error, printable, require

# Seconds of silence after which a process counts as dead, and seconds that the others wait for it
# at the end. Together they bound the time in which all processes end after one has failed.
# Heartbeats are sent by a thread of JAX that neither Python nor the compiler delays.
TIMEOUTS = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 45}
CONNECT_TIMEOUT = 300  # seconds that the first processes wait for the last one
RESTART = "Start all of them again with the same command to resume from the last checkpoint."
LOST_PROCESS = f"another process has died or does not answer (see its own output). {RESTART}"
# Words in a runtime error that point to another process, not to this one's memory or program.
OTHER_PROCESS = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|[Cc]onnection|Gloo")

_monitors: list["Monitor"] = []  # one, if this is one of several processes


def print_line(line: str) -> None:
    """Print a line at once, also where the output is a file."""
    print(line, flush=True)


def ignore_line(line: str) -> None:
    """Print nothing."""


# What `report` does with a line. Threads of a notebook may have a run each.
_output: ContextVar[Callable[[str], None]] = ContextVar("output", default=print_line)


@contextlib.contextmanager
def report_to(output: Callable[[str], None]) -> Iterator[None]:
    """Pass the lines that are reported inside to a function, instead of printing them."""
    token = _output.set(output)
    try:
        yield
    finally:
        _output.reset(token)


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
    if not (args.coordinator or args.distributed):
        return
    if args.coordinator:
        require(
            0 <= args.process < args.processes,
            f"--process {args.process} must be from 0 to --processes - 1 = {args.processes - 1}",
        )
    _start_monitor(args)
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            initialization_timeout=CONNECT_TIMEOUT,
            **TIMEOUTS,
        )
    except (ValueError, RuntimeError) as error:
        _stop_monitor()
        raise UserError(f"the processes cannot be connected: {_first_line(error)}") from error
    if jax.process_count() == 1:
        _stop_monitor()
        return
    for monitor in _monitors:
        monitor.tell(f"connected {jax.process_index()}")


class Monitor:
    """A program that reads this process's stderr and prints one line if it is killed.

    JAX aborts a process when another one has died, and prints a stack trace but no explanation.
    """

    def __init__(self, unconnected: str, waiting: str):
        self.stderr = os.dup(2)
        reader, writer = os.pipe()
        program = pathlib.Path(__file__).with_name("exit_monitor.py")
        self.process = subprocess.Popen(
            [sys.executable, "-S", program, str(reader), RESTART, unconnected, waiting],
            stdin=subprocess.PIPE,
            pass_fds=[reader],
            start_new_session=True,  # so that a signal to the group of this process does not end it
        )
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)

    def tell(self, words: str) -> None:
        """Let the program know what this process does."""
        with contextlib.suppress(OSError):  # it was killed
            self.process.stdin.write(words.encode() + b"\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """End the program once it has passed everything on, because this process ends by itself."""
        sys.stderr.flush()
        self.tell("done")
        self.process.wait()
        os.dup2(self.stderr, 2)


def _start_monitor(args: argparse.Namespace) -> None:
    count = f"{args.processes} processes" if args.processes else "processes"
    where = f" to {args.coordinator}" if args.coordinator else ""
    unconnected = (
        f"not all {count} connected{where} within {CONNECT_TIMEOUT} s. Start one on every host, "
        "see which of them reports an error, and check that all hosts can reach the host of "
        "process 0."
    )
    waiting = f"waiting for all {count} to connect{where} (at most {CONNECT_TIMEOUT} s)"
    _monitors.append(Monitor(unconnected, waiting))
    atexit.register(_stop_monitor)


def _stop_monitor() -> None:
    while _monitors:
        _monitors.pop().stop()


def run(command: Callable[[], None]) -> int:
    """Run a command and return its exit status; one of several processes exits if it fails."""
    try:
        status = exit_status(command)
    except Exception as error:
        if not _monitors:
            raise
        # A lost connection in a barrier is a ValueError.
        of_jax = isinstance(error, (jax.errors.JaxRuntimeError, ValueError))
        if of_jax and OTHER_PROCESS.search(str(error)):
            print_error(f"{_first_line(error)}: {LOST_PROCESS}")
            status = 3
        else:
            traceback.print_exc()
            status = 1
    if status != 0 and _monitors:
        # A normal exit would wait for the other processes, which wait for this one.
        _stop_monitor()
        os._exit(status)
    return status


def _first_line(error: Exception) -> str:
    """What an error of JAX says, without the details."""
    return str(error).partition("\n")[0][:120]


def is_first_process() -> bool:
    """Whether this is the process that writes logs and weights."""
    return jax.process_index() == 0


def report(text: str, everyone: bool = False) -> None:
    """Print a line: once for all processes, or from each of them with its number."""
    line = printable(text)
    output = _output.get()
    if everyone and jax.process_count() > 1:
        output(f"process {jax.process_index()}: {line}")
    elif everyone or is_first_process():
        output(line)


def all_agree(condition: bool) -> bool:
    """Whether the condition holds in all processes."""
    conditions = multihost_utils.process_allgather(np.asarray(condition))
    return bool(np.all(conditions))


def first_process_decides(condition: bool) -> bool:
    """Whether the condition holds in the first process; all processes must call this."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(condition)))


def wait_for_all(what: str) -> None:
    """Wait until all processes have reached this point; `what` names it."""
    multihost_utils.sync_global_devices(what)
