"""Worker processes: they end when the process that started them is gone."""

import multiprocessing
import os
import threading


def end_with_parent(*_) -> None:
    """End this process soon after its parent, however that ended; called first in a worker.

    Without this, a worker whose parent was killed waits forever to hand on what it has prepared.
    Arguments, such as the number of the worker, are ignored.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:  # it was started by multiprocessing
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.Process) -> None:
    parent.join()
    os._exit(1)
