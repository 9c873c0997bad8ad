"""The one exception that means: the user can fix this."""

import argparse
import sys
from collections.abc import Callable


class UserError(Exception):
    """A wrong input, told in one line: what was wrong, where, and what to do."""


class WrongChoice(UserError):
    """A configuration that does not go with a data set, whichever of its pictures is read."""


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command line tool and returns its exit status: 2 after a user error, 130 stopped."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, like `head`, has gone
        sys.stderr.close()
        return 1
    except OSError as error:  # a full disk, a folder that went away
        print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse has it, without paths that would mean the folder one is in."""
        if "" in (sys.argv[1:] if args is None else args):
            self.error("an argument is empty: is a variable of the shell unset?")
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        raise UserError(f"{message} (see --help)")


def require(condition: bool, message: str) -> None:
    """Raises a user error with the message unless the condition holds."""
    if not condition:
        raise UserError(message)
