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
    except EOFError:
        process.join()
        raise UserError(f"{what} does not run here: its process {_end(process.exitcode)}") from None
    finally:
        receiver.close()
    process.join()
    if problem is not None:
        raise UserError(f"{what} does not run here: {problem}")
    if trace:
        raise RuntimeError(f"{what} failed in its own process:\n{trace}")
    return result


def _send_result(sender: Connection, work: Callable, arguments: tuple) -> None:
    result = problem = None
    trace = ""
    try:
        check_platforms()
        result = work(*arguments)
    except UserError as error:
        problem = str(error)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            problem = f"the device has too little memory: {str(error)[:120]}"
        else:
            trace = traceback.format_exc()
    except Exception:
        trace = traceback.format_exc()
    sender.send((result, problem, trace))


def _end(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f"ended with status {exitcode}; its last lines say why"
    name = signal.Signals(-exitcode).name
    if name == "SIGKILL":
        return "was killed (SIGKILL), as Linux does when memory runs out"
    return f"was ended by {name}; its last lines say why"
