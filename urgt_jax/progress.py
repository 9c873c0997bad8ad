"""Progress of long work on the terminal."""

import sys
import time

from urgt_jax.errors import printable

SECONDS_BETWEEN_LINES = 10  # where the output is not a terminal


def format_duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 4:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"


class Progress:
    """Prints how much of some work is done and how much time is left, on stderr."""

    def __init__(self, what: str, count: int, done: int = 0):
        self.what = what
        self.count = count
        self.first = done  # where this process started
        self.start = time.monotonic()
        self.last_print = self.start
        self.is_terminal = sys.stderr.isatty()

    def left(self, done: int) -> float:
        """Seconds left if the work goes on at the average pace so far."""
        elapsed = time.monotonic() - self.start
        return elapsed / max(done - self.first, 1) * (self.count - done)

    def follow(self, done: int, count: int) -> None:
        """Like `update`, for work whose length is only known once it has started."""
        self.count = count
        self.update(done)

    def update(self, done: int, note: str = "") -> None:
        """Print the progress: in place on a terminal, otherwise a line every ten seconds."""
        now = time.monotonic()
        finished = done >= self.count
        recent = now - self.last_print < SECONDS_BETWEEN_LINES
        if recent and not finished and not self.is_terminal:
            return
        self.last_print = now
        left = format_duration(self.left(done))
        line = printable(f"{self.what} {done}/{self.count}, {left} left {note}".rstrip())
        if self.is_terminal:
            line = "\r\x1b[K" + line  # over the line before
        end = "\n" if finished or not self.is_terminal else ""
        print(line, end=end, file=sys.stderr, flush=True)
