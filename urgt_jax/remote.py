"""Paths in object stores, such as gs://bucket/run: which of them work, and local copies.

A path is an etils.epath.Path, which reads and writes whole objects. A store has no folders, locks,
renames, appends or memory maps, and many libraries open files by name only: these work on local
copies, and what they write is uploaded.
"""

import io
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

from etils.epath import Path, PathLike

from urgt_jax.errors import UserError, one_line, require

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
# What makes a scheme of etils.epath work.
INSTALL = {"gs": '"urgt-jax[gcp]"', "s3": '"urgt-jax[s3]"', "az": "adlfs"}
HUB = "hf"  # addresses of weights on the Hugging Face hub, which weights/hub.py reads
PART = 1 << 22  # bytes that are copied at a time

_copies: dict[str, Path] = {}  # local copies of remote files, by address
_copying = threading.Lock()
_writable: set[tuple[str, ...]] = set()  # buckets that were written to


def is_remote(path: PathLike) -> bool:
    """Whether a path is an address in an object store."""
    return SCHEME.match(os.fspath(path)) is not None


def scheme(path: PathLike) -> str:
    """The scheme of an address, such as gs; empty for a local path."""
    match = SCHEME.match(os.fspath(path))
    return match[1] if match else ""


def open_path(path: PathLike) -> Path:
    """The path, which is checked if it is an address; see `check`."""
    check(os.fspath(path))
    return Path(path)


def check(address: str) -> None:
    """Fail for an address that cannot work: unknown scheme, missing package, or no access.

    Local paths pass, and so do addresses on the hub.
    """
    name = scheme(address)
    if name in ("", HUB):
        return
    _forget_listings()
    try:
        path = Path(address)
    except KeyError:
        known = ", ".join(f"{known}://" for known in INSTALL)
        raise UserError(
            f"{address}: {name}:// is unknown. Pass a local path or an address in a bucket "
            f"({known}), or mount the bucket and pass its folder"
        ) from None
    try:
        with _quiet():
            path.exists()
    except ImportError as error:
        raise UserError(
            f"{address} needs a package: pip install {INSTALL.get(name, name)}"
        ) from error
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{address} cannot be reached ({_reason(error)}). Check the name of the bucket, and "
            "that this machine is logged in and may read it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep packages from logging an error that is reported in one line."""
    loggers = [logging.getLogger(name) for name in ("gcsfs", "s3fs", "google")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _forget_listings() -> None:
    """Make fsspec ask the store each time what a folder holds: other processes change it."""
    try:
        from fsspec.config import conf
    except ImportError:
        return  # etils then reports that it needs fsspec
    for protocol in ("gcs", "gs", "s3", "az"):
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def require_local(path: Path, advice: str) -> None:
    """Fail for an address where only local files work; the advice says what to do instead."""
    require(not is_remote(path), f"{path} is not a local path. {advice}")


def check_writable(folder: Path) -> None:
    """Fail unless files can be written in a remote folder; each bucket is tried once."""
    bucket = folder.parts[:3]
    if bucket in _writable:
        return
    probe = folder / f".urgt_write_test.{secrets.token_hex(4)}"  # other processes try it too
    try:
        with _quiet():
            probe.write_bytes(b"")
            probe.unlink()
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"cannot write to {folder} ({_reason(error)}). Check the name of the bucket, and that "
            "this machine is logged in and may create and delete objects there"
        ) from error
    _writable.add(bucket)


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:120]


def absolute(path: Path) -> Path:
    """The absolute path; an address is one, but epath would put the current folder before it."""
    return path if is_remote(path) else path.absolute()


def readable(path: Path) -> Path | io.IOBase:
    """What a library can open that takes a path or an open file.

    Of a remote file, it reads the parts that it needs.
    """
    return path.open("rb") if is_remote(path) else path


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    """The folder of this process for local copies, which is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="urgt_")


def local_copy(path: Path) -> Path:
    """A local file with the content of a path: the path itself, unless it is remote.

    A remote file is downloaded once; the copy is kept until the process ends.
    """
    if not is_remote(path):
        return path
    with _copying:
        if str(path) not in _copies:
            local = Path(tempfile.mkdtemp(dir=_scratch().name)) / path.name
            _copy(path, local)
            _copies[str(path)] = local
        return _copies[str(path)]


def upload(source: Path, path: Path) -> None:
    """Write a remote file from another file. Readers see all of it or nothing."""
    try:
        _copy(source, path)
    except Exception as error:  # each store has errors of its own
        raise UserError(f"cannot write {path} ({_reason(error)})") from error
    _copies.pop(str(path), None)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, PART)


@contextmanager
def uploading(path: Path) -> Iterator[BinaryIO]:
    """Open a local file for writing, which is uploaded once it is complete."""
    with tempfile.TemporaryDirectory(prefix="urgt_") as folder:
        local = Path(folder) / path.name
        with local.open("wb") as file:
            yield file
        upload(local, path)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A local folder for what belongs into `folder`: itself, or one that is uploaded at the end."""
    if not is_remote(folder):
        yield folder
        return
    stage = Stage(folder)
    try:
        yield stage.local
        stage.upload()
    finally:
        stage.remove()


class Stage:
    """A local folder that a library writes to, for a folder that may be remote."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.local = folder
        self.uploaded: dict[Path, tuple[int, int]] = {}  # size and time of uploaded files
        if is_remote(folder):
            self.local = Path(tempfile.mkdtemp(dir=_scratch().name))

    def upload(self) -> None:
        """Upload the files that are new or have changed, if the folder is remote."""
        if self.local == self.folder:
            return
        for path in all_files(self.local):
            status = os.stat(path)
            version = (status.st_size, status.st_mtime_ns)
            if self.uploaded.get(path) != version:
                upload(path, self.folder / path.relative_to(self.local))
                self.uploaded[path] = version

    def remove(self) -> None:
        """Remove the local copy."""
        if self.local != self.folder:
            self.local.rmtree(missing_ok=True)


def all_files(folder: Path) -> list[Path]:
    """The files in a folder and in the folders inside it, in order."""
    files = []
    for path in sorted(folder.iterdir()):
        if path == folder:  # some stores keep an object for the folder itself
            continue
        if path.is_dir():
            files += all_files(path)
        else:
            files.append(path)
    return files


def copy_folder(source: Path, target: Path) -> None:
    """Copy all files of a folder; either folder may be remote."""
    for path in all_files(source):
        copy = target / path.relative_to(source)
        if is_remote(target):
            upload(path, copy)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, copy)


def move_folder(source: Path, target: Path) -> None:
    """Move a folder to a path where nothing is yet; either may be remote."""
    if not is_remote(source) and not is_remote(target):
        shutil.move(source, target)
        return
    copy_folder(source, target)
    source.rmtree()


class RemoteLog(io.BytesIO):
    """A remote file to append to. A store cannot append: every flush writes the whole file."""

    def __init__(self, path: Path):
        self.path = path
        self.stored = path.read_bytes() if path.exists() else b""
        super().__init__(self.stored)
        self.seek(0, os.SEEK_END)

    def write(self, data: bytes) -> int:
        """Append bytes, whatever the position is."""
        self.seek(0, os.SEEK_END)
        return super().write(data)

    def flush(self) -> None:
        """Upload the content, if it has changed."""
        content = self.getvalue()
        if content == self.stored:
            return
        try:
            self.path.write_bytes(content)
        except Exception as error:  # each store has errors of its own
            raise UserError(f"cannot write {self.path} ({_reason(error)})") from error
        self.stored = content

    def close(self) -> None:
        """Upload the content and close the file."""
        if not self.closed:
            self.flush()
        super().close()
