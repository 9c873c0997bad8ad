"""Errors that the user can fix, and command lines that report them in one line."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


class UserError(Exception):
    """Wrong input, described in one line: what is wrong, where, and what to do."""


class WrongChoice(UserError):
    """A configuration that does not go with a data set, whichever of its images is read."""


def require(condition: bool, message: str) -> None:
    """Raises a user error with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_package(name: str, extra: str, purpose: str) -> ModuleType:
    """Imports a package of an extra; a user error names the extra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{purpose} need {name}: pip install 'urgt-jax[{extra}]'") from error


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status: 2 after a user error, 130 after Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, or a folder that disappeared
        print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the nearest option."""

    def __init__(self, *args, **options):
        # Abbreviations would change their meaning whenever an option is added.
        super().__init__(*args, allow_abbrev=False, **options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        """Parses the arguments; an empty one is an error, since it would mean this folder."""
        arguments = sys.argv[1:] if args is None else list(args)
        if "" in arguments:
            self.error("an argument is empty: is a variable of the shell unset?")
        self.check_options(arguments)
        return super().parse_known_args(arguments, namespace)

    def check_options(self, arguments: Sequence[str]) -> None:
        """Fails at the first option that does not exist, naming the nearest one."""
        known = self.option_names()
        for argument in arguments:
            name = argument.split("=")[0]
            if name.startswith("--") and not self.accepts(name):
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UserError(f"unknown option {name}{hint} (see {self.prog} --help)")

    def accepts(self, option: str) -> bool:
        """Whether the parser, or a command inside it, has this option."""
        return option in self.option_names()

    def option_names(self) -> list[str]:
        """All options, those of commands inside this one included."""
        names = []
        for action in self._actions:
            names += action.option_strings
            choices = action.choices if isinstance(action.choices, dict) else {}
            for command in choices.values():
                if isinstance(command, Parser):
                    names += command.option_names()
        return names

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional package; fails with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UserError(
            f'{package} is not installed. Run: pip install "urgt-jax[{extra}]"'
        ) from error
