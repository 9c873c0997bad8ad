"""What Orbax leaves behind when a checkpoint cannot be written or read.

Orbax writes and reads arrays as tasks of an event loop, and closes the loop at the first error,
which it raises. The errors of the other tasks stay in memory or reach stderr. No public function
of Orbax returns these tasks or waits for them.
"""

import asyncio
import contextlib
import gc
import sys
import threading

import orbax.checkpoint as ocp
from absl import logging
from etils.epath import Path

ORBAX = str(Path(ocp.__file__).parent)


def discard_failed_tasks() -> None:
    """Retrieve the errors of all tasks that Orbax left behind, and close the unfinished ones.

    Otherwise asyncio logs each of them when it is garbage-collected, which happens at any later
    time and in the middle of any other code. The tasks are looked up among the objects of the
    garbage collector. Those of other packages and of loops that still run are left alone.
    """
    _wait_for_threads()
    futures = [x for x in gc.get_objects() if isinstance(x, asyncio.Future)]
    loops = {task.get_loop() for task in futures if _is_abandoned(task)}
    for loop in loops:
        loop.set_exception_handler(_ignore)
    for future in futures:
        if future.get_loop() not in loops:
            continue
        if isinstance(future, asyncio.Task):
            # The coroutine may raise while it leaves its `with` blocks.
            with contextlib.suppress(Exception):
                future.get_coro().close()
        if future.done() and not future.cancelled():
            future.exception()  # marks the error as retrieved


def _wait_for_threads() -> None:
    """Wait for the other threads of a failed save, which may be about to fail too."""
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread)  # Orbax's own `join` would raise the error of the thread


def _is_abandoned(future: asyncio.Future) -> bool:
    """Whether this is a task of Orbax's code in an event loop that will not run again."""
    if not isinstance(future, asyncio.Task) or not future.get_loop().is_closed():
        return False
    code = getattr(future.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(ORBAX)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict) -> None:
    """The exception handler of a closed loop, whose first error was raised."""


def hide_secondary_errors() -> None:
    """Keep errors off stderr that only accompany the one that Orbax raises.

    This changes the logging and the unraisable hook of the whole process, so only a command calls
    it, never a function of the library. Orbax logs the traceback of every thread that failed.
    TensorStore's threads report that the event loop is closed, once for every operation that ends
    after the first error, and have no other way to report it than the hook.
    """
    logging.set_verbosity(logging.FATAL)
    previous_hook = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook
