"""Progress of long work on the terminal."""

import sys
import time


def format_duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 4:05."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Tells how far a long piece of work is and how much time is left."""

    def __init__(self, what: str, count: int, done: int = 0):
        self.what, self.count, self.first = what, count, done
        self.began = self.told = time.monotonic()
        self.live = sys.stderr.isatty()

    def left(self, done: int) -> float:
        """Seconds left at the pace so far."""
        spent = time.monotonic() - self.began
        return spent / max(done - self.first, 1) * (self.count - done)

    def follow(self, done: int, count: int) -> None:
        """As `tell`, of work whose length is known once it has begun."""
        self.count = count
        self.update(done)

    def update(self, done: int, note: str = "") -> None:
        """Shows the state: in place on a terminal, else a line every ten seconds."""
        now = time.monotonic()
        if not self.live and now - self.told < 10 and done < self.count:
            return
        self.told = now
        line = f"{self.what} {done}/{self.count}, {format_duration(self.left(done))} left {note}".rstrip()
        end = "\n" if done >= self.count or not self.live else ""
        start = "\r\x1b[K" if self.live else ""
        print(start + line, end=end, file=sys.stderr, flush=True)
