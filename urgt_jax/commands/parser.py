"""Command lines whose errors are one line."""

import argparse
import difflib
import sys
from collections.abc import Sequence

from urgt_jax import remote
from urgt_jax.config import TOKEN_SIZE
from urgt_jax.errors import UserError


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
        for argument in arguments:
            remote.check(argument.split("=", 1)[-1] if argument.startswith("--") else argument)
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


def pixels(text: str) -> int:
    """Parses a length that is at least one token of the encoder, in pixels."""
    number = int(text)
    if number < TOKEN_SIZE:
        raise argparse.ArgumentTypeError(f"must be at least {TOKEN_SIZE} pixels")
    return number


def add_max_skipped(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the option that limits how many of `what` may fail."""
    parser.add_argument(
        "--max-skipped",
        type=int,
        metavar="N",
        help=f"stop when more than N {what} are skipped because they cannot be read (default: no "
        "limit). If any were skipped, the exit status is 1",
    )


def add_size(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the option --size, by default 4K; `what` has this size."""
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[2160, 3840],
        metavar=("H", "W"),
        help=f"height and width of {what}, pixels (default: 2160 3840)",
    )
