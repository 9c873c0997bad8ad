"""Errors that the user can fix, and the exit status of commands."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


class UserError(Exception):
    """Wrong input, described in one line: what is wrong, where, and what to do."""


class NegativeResult(UserError):
    """A command that ran as asked and whose answer is no, such as a score of no image at all."""


class WrongChoice(UserError):
    """A configuration that does not go with a data set, whichever of its images is read."""


def require(condition: object, message: str) -> None:
    """Raises a user error with the message unless the condition is true or not empty."""
    if not condition:
        raise UserError(message)


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status.

    It is 2 after a user error, 1 after a negative result, 130 after Ctrl-C.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, NegativeResult) else 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, or a folder that disappeared
        print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2


def one_line(text: str) -> str:
    """The text in one line, without characters that would control a terminal."""
    letters = [letter if letter.isprintable() else "?" for letter in " ".join(text.split())]
    return "".join(letters)


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional package; fails with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UserError(
            f'{package} is not installed. Run: pip install "urgt-jax[{extra}]"'
        ) from error
