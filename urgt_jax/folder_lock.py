"""A folder that a command writes into belongs to one process at a time."""

import contextlib
import fcntl
import os
import socket
import time
from typing import BinaryIO

from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.files import make_folder

LOCK = ".lock"  # names the process that writes into the folder


class FolderLock:
    """Keeps other processes out of a folder until it is released or this process ends.

    The lock belongs to the open file, so that the system releases it however the process ends. It
    holds across hosts where the file system passes locks on, as NFS does. `option` is the option of
    the command that names the folder. A UserError if another process has the lock.
    """

    def __init__(self, folder: Path, option: str):
        self.folder = folder
        self.option = option
        self.path = make_folder(folder) / LOCK
        self.file: BinaryIO | None = self._lock()
        if not self._is_in_place():  # its owner has just removed it
            self.file.close()
            self.file = self._lock()
        with contextlib.suppress(OSError):  # a full disk: the lock holds, without a name
            os.ftruncate(self.file.fileno(), 0)
            os.write(self.file.fileno(), this_process().encode())

    def _lock(self) -> BinaryIO:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UserError(f"cannot open {self.path}: {error.strerror}") from error
        file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read().decode("utf-8", "replace").strip()
            file.close()
            raise UserError(
                f"{self.folder} is in use by {owner or 'another process'}. Wait until it has "
                f"ended, stop it, or choose another {self.option}"
            ) from None
        except OSError as error:
            reason = f"{self.folder} cannot be locked ({error.strerror})"
            print(f"{reason}: start no second command that writes into it", flush=True)
        return file

    def _is_in_place(self) -> bool:
        """Whether the locked file is still the one of that name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return False

    def is_held(self) -> bool:
        """Whether this process still holds the lock."""
        return self.file is not None

    def release(self) -> None:
        """Let others in."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # the folder was removed or became read-only
                self.path.unlink()
            self.file.close()
            self.file = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def this_process() -> str:
    """The process, its host and the time, for people."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {now}"
