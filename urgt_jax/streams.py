"""Output that never costs a result: a closed pipe, a full disk or a terminal without UTF-8."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class LossyStream:
    """A stream whose text is dropped where it cannot be written; it behaves like the one inside."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # characters that the terminal does not have

    def write(self, text: str) -> int:
        """Write, or drop, the text."""
        try:
            return self.stream.write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Write, or drop, what is buffered."""
        try:
            self.stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        """Let everything go nowhere from here on, also what Python flushes at its end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def protect_output() -> None:
    """Make this process go on when nobody reads what it prints any more."""
    # Python has no stream where its descriptor was closed before it started.
    if sys.stdout is not None:
        sys.stdout = LossyStream(sys.stdout)
    if sys.stderr is not None:
        sys.stderr = LossyStream(sys.stderr)


@contextmanager
def root_logger_unchanged() -> Iterator[None]:
    """Remove handlers that others give the root logger inside.

    Orbax and Grain log through absl, which sets up a root logger without handlers at its first
    line. The calling program could not set it up with `logging.basicConfig` any more.
    """
    handlers = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in list(logging.root.handlers):
            if handler not in handlers:
                logging.root.removeHandler(handler)
