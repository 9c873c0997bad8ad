"""The one exception that means: the user can fix this."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A wrong input, told in one line: what was wrong, where, and what to do."""


def exit_status(command: Callable[[], None]) -> int:
    """Runs a command line tool and returns its exit status: 2 after a user error, told on stderr."""
    try:
        command()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
