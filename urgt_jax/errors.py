"""Errors that the user can fix, and the exit status of commands."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

MAX_LINE = 290  # characters of an error
CUT = " ... "  # stands for what is left out of a line


class UserError(Exception):
    """Wrong input, described in one line: what is wrong, where, and what to do.

    Names from data and messages of libraries may be part of it: it becomes one printable line.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


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
        print_error(shorten(str(error)))
        return 1 if isinstance(error, NegativeResult) else 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, or a folder that disappeared
        text = f"{error.strerror or error}: {error.filename or ''}"
        print_error(shorten(one_line(text)))
        return 2


def print_error(text: str) -> None:
    """Prints the line of an error; on a terminal, over an unfinished line of progress."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}error: {text}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The text in one printable line."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text with a ? for every character that would control a terminal, also for line ends.

    Names that come from data, such as those of files, images, tensors and splits, are printed
    through this function.
    """
    return "".join([letter if letter.isprintable() else "?" for letter in text])


def reason(error: Exception) -> str:
    """Why one of many items failed, in one line."""
    if isinstance(error, UserError):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}")


def check_skipped(skipped: int, limit: int | None, last: str) -> None:
    """Raises a user error if more items were skipped than the user allows; None is no limit."""
    require(
        limit is None or skipped <= limit,
        f"stopped: {skipped} were skipped, and --max-skipped allows {limit}. Finished work is "
        f"kept. Run the same command again to resume. The last one: {last}",
    )


def shorten(line: str) -> str:
    """The line without its middle if it is too long; what to do mostly stands at the end."""
    if len(line) <= MAX_LINE:
        return line
    end = MAX_LINE // 2
    return f"{line[: MAX_LINE - end - len(CUT)]}{CUT}{line[-end:]}"


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional package; fails with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UserError(
            f'{package} is not installed. Run: pip install "urgt-jax[{extra}]"'
        ) from error
