"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from urgt_jax.errors import UserError


@contextmanager
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Tells what the system says about writing inside as a user error."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name `path` only once it is complete."""
    # Not the process id, which hosts that share the folder may have in common.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with reporting_write_errors(path):
            with part.open("wb") as file:
                yield file
            os.replace(part, path)
    finally:
        try:
            part.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is gone or read-only, and so is the part


def write_text(path: Path, text: str) -> None:
    """Writes a text file."""
    with atomic_write(path) as file:
        file.write(text.encode())


def make_folder(path: Path) -> Path:
    """The folder, made if it is missing; fails at once where nothing can be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to the folder {path}: it is read-only")
    return path
