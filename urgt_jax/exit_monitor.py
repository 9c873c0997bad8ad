"""A program that passes on the errors of one of several processes, and explains its end.

JAX aborts a process when another one has died. It does so in C++, with a stack trace that does not
say what to do. This program prints one line in place of that report. `distributed` starts it beside
the process, without any package, so that it is there at once:

    exit_monitor.py FD ADVICE UNCONNECTED WAITING

FD is what the process writes to instead of stderr. The other arguments are texts: what to do when a
process has died, the error if not all processes connect, and a notice while they do not. On stdin
the process says "connected I" and "done". If stdin closes before that, the process was killed.
"""

import os
import re
import selectors
import sys
import time

NOTICE_AFTER = 10  # seconds without all processes, after which this is said
HOLD = 2  # seconds that a report of JAX waits for the process to end
QUIET = 0.3  # seconds without a word after which a process that has ended has said everything
CONTROL = 0  # file descriptor on which the process says what it does
# How JAX's report of an end begins, the sentence that it has, and the process that it blames.
REPORT = re.compile(
    rb"[EWF]\d{4} .*(coordination_service|preemption_sync_manager|Terminating process because)"
)
ABORTED = b"Terminating process because the JAX distributed service detected fatal errors"
REGISTERING = b"RPC: /xla.coordination.CoordinationService/RegisterTask"
UNHEALTHY = re.compile(rb"unhealthy \(stopped sending heartbeats\):\s+(\d+)")


class Monitor:
    """Reads what the process says on both channels until it ends."""

    def __init__(self, errors: int, advice: str, unconnected: str, waiting: str):
        self.errors = errors
        self.advice = advice
        self.unconnected = unconnected
        self.waiting = waiting
        self.number = ""  # of the process, once it is connected
        self.ended = False
        self.done = False  # whether the process ended by itself
        self.explained = False
        self.held = b""  # lines of a report of JAX, which may announce the end
        self.line = b""  # the last line, if it is not complete
        self.selector = selectors.DefaultSelector()
        self.selector.register(errors, selectors.EVENT_READ)
        self.selector.register(CONTROL, selectors.EVENT_READ)

    def run(self) -> None:
        """Follow the process to its end, and print a line if it did not end by itself."""
        notice_at = time.monotonic() + NOTICE_AFTER
        silent = False
        while not (self.ended and silent):
            patience = QUIET if self.ended or ABORTED in self.held else HOLD
            ready = [key.fd for key, _ in self.selector.select(patience)]
            silent = not ready
            if self.errors in ready:
                self.read_errors()
            elif ABORTED in self.held:
                self.explain()  # now, since the end may take seconds
            elif not self.ended:
                self.release()  # the process lives on
            if CONTROL in ready:
                self.read_control()
            if not (self.number or self.ended) and time.monotonic() > notice_at:
                notice_at = float("inf")
                write(self.waiting.encode() + b"\n")
        if not self.done:
            self.explain()
        elif ABORTED not in self.held:
            self.release()

    def read_control(self) -> None:
        """Learn what the process does."""
        words = os.read(CONTROL, 4096).split()
        if b"connected" in words:
            self.number = words[words.index(b"connected") + 1].decode()
        self.done = b"done" in words
        if self.done or not words:
            self.ended = True
            self.selector.unregister(CONTROL)

    def read_errors(self) -> None:
        """Pass on whole lines, and hold back what may be a report of the end."""
        part = os.read(self.errors, 1 << 16)
        if not part:  # nobody can write any more
            self.selector.unregister(self.errors)
        *lines, self.line = (self.line + part).split(b"\n")
        for line in lines:
            if self.held or REPORT.match(line):
                self.held += line + b"\n"
            else:
                write(line + b"\n")

    def release(self) -> None:
        """Pass on what was held back."""
        write(self.held + self.line)
        self.held = self.line = b""

    def explain(self) -> None:
        """Print why the process ends, once, in place of JAX's report."""
        if self.explained:
            return
        self.explained = True
        if ABORTED not in self.held:
            self.release()
        write(b"error: " + self.explanation().encode() + b"\n")

    def explanation(self) -> str:
        """Why the process ends, in one line."""
        if ABORTED not in self.held:
            name = f"process {self.number}" if self.number else "this process"
            return f"{name} was killed. {self.advice}"
        if REGISTERING in self.held:
            return self.unconnected
        unhealthy = UNHEALTHY.search(self.held)
        name = f"process {unhealthy[1].decode()}" if unhealthy else "another process"
        return f"{name} has died or does not answer (see its own output). {self.advice}"


def write(text: bytes) -> None:
    """Write to the stderr that the process had; nobody may be reading it any more."""
    try:
        os.write(2, text)
    except OSError:
        pass


if __name__ == "__main__":
    Monitor(int(sys.argv[1]), *sys.argv[2:]).run()
