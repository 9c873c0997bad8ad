"""Reading and writing files: errors are one line, and a written file is complete or absent.

Paths may be remote: see `remote`.
"""

import contextlib
import fcntl
import glob
import io
import json
import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from etils.epath import Path

from urgt_jax.errors import UserError, one_line, require
from urgt_jax.remote import RemoteLog, check_writable, is_remote, uploading

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")  # names that `atomic_write` chooses
HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"  # in these names
LEFTOVER_AGE = 3600  # seconds since a temporary file has changed, after which nobody writes it
LFS_MARK = b"version https://git-lfs"
WEB_PAGE_MARKS = (b"<!doctype", b"<html", b"<?xml")
_swept_folders: set[Path] = set()


def user_cache() -> Path:
    """The folder of what this user keeps between commands: URGT_CACHE, or ~/.cache/urgt."""
    return Path(os.environ.get("URGT_CACHE") or "~/.cache/urgt").expanduser()


@contextmanager
def reporting_read_errors(path: Path, what: str) -> Iterator[None]:
    """Turn any error of reading a file into a UserError that names it; `what` is its content."""
    require(path.is_file(), f"{path}: the {what} is missing")
    require(path.stat().length > 0, f"{path} is empty. Save or download the {what} again")
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # numpy and Pillow raise many kinds of errors on damaged files
        text = str(error).replace(str(path), path.name)  # the message begins with the whole path
        reason = one_line(text) or type(error).__name__
        raise UserError(
            f"{path} cannot be read. Save or download the {what} again: {reason}"
        ) from error


def check_downloaded(path: Path, head: bytes, what: str) -> None:
    """Fail if a file begins like what a failed download leaves; `what` is its content."""
    require(
        not head.startswith(LFS_MARK),
        f"{path} is a pointer of Git LFS, not the {what}. Run git lfs pull in its repository, "
        "or download the file itself.",
    )
    require(
        not head.lstrip().lower().startswith(WEB_PAGE_MARKS),
        f"{path} is a web page, not the {what}: the download was answered with an error or a "
        "login. Download it again, and look at it in a browser if that repeats.",
    )


def find_paths(folder: Path, pattern: str) -> list[Path]:
    """The paths in a folder that match a pattern, in order; `*` leaves hidden ones out."""
    # Without the escape, a [ in the folder's own name would be read as a pattern.
    paths = sorted(Path(glob.escape(str(folder))).glob(pattern))
    if is_remote(folder) and not pattern.startswith("."):
        # There `*` matches hidden names too.
        paths = [path for path in paths if not _is_hidden(path.relative_to(folder))]
    return paths


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def load_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, with numpy's errors; `mapped` maps a local file into memory."""
    if is_remote(path):
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return np.load(path, "r" if mapped else None, allow_pickle=False)


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    with reporting_read_errors(path, what):
        return path.read_bytes().decode("utf-8-sig")


def read_words(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a text file, without empty lines."""
    lines = [line.split() for line in read_text(path, what).splitlines()]
    return [words for words in lines if words]


def read_json_object(path: Path) -> dict:
    """The content of a JSON file that holds one object."""
    with reporting_read_errors(path, "JSON"):
        content = parse_json(path.read_bytes().decode("utf-8-sig"))
    require(isinstance(content, dict), f"{path} must hold one JSON object, {{...}}")
    return content


def parse_json(text: str | bytes) -> object:
    """The value in a JSON text; a ValueError if it is none, also if it is nested absurdly deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checksum(data: bytes | np.ndarray, start: int = 0) -> str:
    """A checksum that any accidental change of the data changes, as text.

    `start` is the CRC-32 of data that come before these.
    """
    return f"{zlib.crc32(data, start):08x}"


def file_checksum(path: Path) -> str:
    """The checksum of a file, which is read a part at a time."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


def seal(values: dict) -> dict:
    """The values, to be written as JSON, with a checksum as their last entry."""
    return values | {"checksum": checksum(json.dumps(values).encode())}


def unseal(values: object) -> dict:
    """The values of a sealed JSON object without the checksum; a ValueError if it is wrong."""
    if not isinstance(values, dict) or "checksum" not in values:
        raise ValueError("there is no checksum")
    values = dict(values)
    if values.pop("checksum") != checksum(json.dumps(values).encode()):
        raise ValueError("the checksum is wrong")
    return values


def is_same(first: Path, second: Path) -> bool:
    """Whether two paths lead to one file or folder, through links too."""
    return os.path.realpath(first) == os.path.realpath(second)


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system inside the block into a UserError about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing; it is renamed to `path` once it is complete.

    For a remote path it is a local file, which is uploaded.
    """
    if is_remote(path):
        with reporting_write_errors(path), uploading(path) as file:
            yield file
        return
    _remove_leftovers(path.parent)
    # A random part: processes of other hosts may write the same file.
    temporary = path.with_name(f".{path.name}.{HOST}{secrets.token_hex(4)}.tmp")
    try:
        with reporting_write_errors(path):
            with _open_locked(temporary) as file:
                yield file
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder is gone or read-only
            temporary.unlink(missing_ok=True)


def _open_locked(temporary: Path) -> BinaryIO:
    """Open a temporary file with a lock, which says that this process still writes it."""
    file = temporary.open("wb")
    with contextlib.suppress(OSError):  # not every file system has locks
        fcntl.flock(file, fcntl.LOCK_EX)
        if not temporary.exists():  # another process removed it before it was locked
            file.close()
            file = temporary.open("wb")
            fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed, once for each folder."""
    if folder in _swept_folders:
        return
    _swept_folders.add(folder)
    for path in find_paths(folder, ".*.tmp"):
        with contextlib.suppress(OSError):  # a file of another user, which does no harm
            if TEMPORARY.fullmatch(path.name):
                _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """Remove a temporary file unless a process may still write it."""
    if time.time() - path.stat().mtime > LEFTOVER_AGE:
        path.unlink(missing_ok=True)
    elif HOST in path.name:  # the locks of other hosts may not be seen here
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError if it is being written
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file."""
    with atomic_write(path) as file:
        # A name of a file that is not UTF-8 has characters that cannot be encoded.
        file.write(text.encode(errors="replace"))


def inside(folder: Path, name: str) -> Path:
    """The path of a name that comes from a file; a UserError if it leads out of the folder."""
    path = Path(name)
    require(
        name != "" and not path.is_absolute() and ".." not in path.parts and "\0" not in name,
        f"the name {name!r} leads out of {folder}. Nothing was read or written there",
    )
    return folder / path


def open_to_append(path: Path) -> BinaryIO | RemoteLog:
    """Open a file of this program for appending; fails for a link, which may lead anywhere.

    A remote file is written as a whole whenever it is flushed.
    """
    if is_remote(path):
        return RemoteLog(path)
    require(not os.path.islink(path), f"{path} is a link. Replace it with a file, or remove it")
    return path.open("ab")


def make_folder(path: Path) -> Path:
    """Create the folder if it is missing and return it; a UserError if it cannot be written to."""
    if is_remote(path):  # stores have no folders
        check_writable(path)
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {path}: it is read-only")
    return path
