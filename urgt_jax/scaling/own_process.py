"""Work in a process of its own, which leaves all memory free and may fail alone.

The first process that uses a GPU takes most of its memory. The process that asks for such work must
not use one itself.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax

from urgt_jax.errors import UserError
from urgt_jax.hardware import check_platforms
from urgt_jax.streams import protect_output
from urgt_jax.workers import end_with_parent


def in_own_process(what: str, work: Callable, *arguments) -> Any:
    """work(*arguments) in a new process; a UserError that begins with `what` if it cannot be done.

    A process that dies is reported by its signal or status: why it died is not known here.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, work, arguments))
    process.start()
    sender.close()  # the other process holds the only open end now
    try:
        result, problem, trace = receiver.recv()
    except (EOFError, OSError):  # it died before it had sent everything
        process.join()
        raise UserError(f"{what} does not run here: its process {_end(process.exitcode)}") from None
    except BaseException:  # such as Ctrl-C
        process.terminate()
        process.join()
        raise
    finally:
        receiver.close()
    process.join()
    if problem is not None:
        raise UserError(f"{what} does not run here: {problem}")
    if trace:
        raise RuntimeError(f"{what} failed in its own process:\n{trace}")
    return result


def _send_result(sender: Connection, work: Callable, arguments: tuple) -> None:
    end_with_parent()
    protect_output()
    result = problem = None
    trace = ""
    try:
        result = work(*arguments)
    except UserError as error:
        problem = str(error)
    except Exception as error:
        problem = _known_problem(error)
        if problem is None:
            trace = traceback.format_exc()
    sender.send((result, problem, trace))


def _known_problem(error: Exception) -> str | None:
    """What a user can do something about, in words, or None."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return f"the device has too little memory: {str(error)[:120]}"
    try:
        check_platforms()  # JAX fails in many ways if it finds no device
    except UserError as no_device:
        return str(no_device)
    return None


def _end(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f"ended with status {exitcode}; its last lines say why"
    if -exitcode not in list(signal.Signals):
        return f"was ended by signal {-exitcode}"
    name = signal.Signals(-exitcode).name
    if name == "SIGKILL":
        return "was killed (SIGKILL), as Linux does when memory runs out"
    return f"was ended by {name}; its last lines say why"
