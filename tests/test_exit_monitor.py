"""The program that explains how one of several processes ended, with what JAX wrote (jax 0.10)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "urgt_jax" / "exit_monitor.py"
TEXTS = ["Start again.", "not all connected", "waiting for all"]
ABORT = (
    "F1128 09:23:23.700822   30783 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. This most likely indicates that another task died; see the "
    "other task logs for more details. absl::Status: "
)
TRACE = """*** Check failure stack trace: ***
    @     0x7f9b15c40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
    @     0x7f9b1d0a71f5  (unknown)

"""
HEARTBEATS = (
    "E1128 09:23:23.699717   30772 coordination_service.cc:1549] [7877020589453744389] Use error "
    """polling to propagate the following error to all tasks: UNAVAILABLE: The following tasks are \
unhealthy (stopped sending heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error.
"""
    f"{ABORT}UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n"
    f"\nRPC: /xla.coordination.CoordinationService/PollForError\n{TRACE}"
)
CLOSED = (
    "W1128 09:22:42.319206   30654 preemption_sync_manager.cc:147] Failed to retrieve preemption "
    f"notice\nAdditional GRPC error information\n{ABORT}UNAVAILABLE: Socket closed\n{TRACE}"
)
DEADLINE = (
    f"{ABORT}DEADLINE_EXCEEDED: Deadline Exceeded\n\n"
    f"RPC: /xla.coordination.CoordinationService/RegisterTask\n{TRACE}"
)
WARNING = "W1128 09:22:42.319206   30654 coordination_service_agent.cc:147] a slow heartbeat\n"


class Watched:
    """A monitor, and both channels of the process that it watches."""

    def __init__(self):
        reader, self.errors = os.pipe()
        self.monitor = subprocess.Popen(
            [sys.executable, "-S", str(PROGRAM), str(reader), *TEXTS],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[reader],
        )
        os.close(reader)

    def write(self, text: str) -> None:
        """What the process writes to stderr."""
        os.write(self.errors, text.encode())

    def tell(self, words: str) -> None:
        """What the process tells the monitor."""
        self.monitor.stdin.write(words.encode() + b"\n")
        self.monitor.stdin.flush()

    def end(self) -> str:
        """End the process, and return all that the monitor has printed."""
        os.close(self.errors)
        return self.monitor.communicate(timeout=60)[1].decode()


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize(
    "report,line",
    [
        (HEARTBEATS, "process 1 has died or does not answer (see its own output). Start again."),
        (CLOSED, "another process has died or does not answer (see its own output). Start again."),
        (DEADLINE, "not all connected"),
        ("", "process 0 was killed. Start again."),
        ("Segmentation fault\n", "process 0 was killed. Start again."),
    ],
)
def test_end_of_a_process_is_explained_in_one_line_without_a_trace(watched, report, line):
    watched.tell("connected 0")
    watched.write("before\n" + report)
    kept = "Segmentation fault\n" if report.startswith("Seg") else ""
    assert watched.end() == f"before\n{kept}error: {line}\n"


def test_line_comes_before_the_aborted_process_has_ended(watched):
    watched.tell("connected 0")
    watched.write(HEARTBEATS)
    line = watched.monitor.stderr.readline()  # while the process still runs
    assert line.startswith(b"error: process 1 has died")
    assert watched.end() == ""


def test_process_that_ends_by_itself_is_not_explained(watched):
    watched.tell("connected 0")
    watched.write("error: a user error\n" + WARNING + "unfinished")
    watched.tell("done")
    assert watched.end() == "error: a user error\n" + WARNING + "unfinished"


def test_warning_of_a_process_that_lives_on_is_passed_on(watched):
    watched.write(WARNING)
    assert watched.monitor.stderr.readline() == WARNING.encode()
    watched.tell("done")
    assert watched.end() == ""
