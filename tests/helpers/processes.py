"""Programs that tests start, and the options that connect several of them."""

import os
import socket
import subprocess
import sys

from etils.epath import Path

ROOT = Path(__file__).parents[2]


def start_python(*words: object, **streams: int) -> subprocess.Popen:
    """Start Python on the CPU, at the root of the repository; its output is text in pipes.

    `streams` are those of Popen; by default stderr goes where stdout goes.
    """
    return subprocess.Popen(
        [sys.executable, *[str(word) for word in words]],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | streams,
    )


def connecting_options(count: int) -> list[list[str]]:
    """The options of each of several processes on this machine; of one alone there are none."""
    if count == 1:
        return [[]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count)]
    return [[*options, "--process", str(number)] for number in range(count)]
