"""Worker processes of a killed parent, as the commands start them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from etils.epath import Path
from helpers import miniature_sets
from helpers.command import config_file

from urgt_jax.config_files import with_changes

ROOT = Path(__file__).parents[1]


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run, by Linux's /proc."""
    numbers = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has just ended
        state, session_of_process = fields[0], int(fields[3])
        if session_of_process == session and state != "Z":
            numbers.append(int(folder.name))
    return numbers


def start(command: list, **options) -> subprocess.Popen:
    """A command in a session of its own, by which its workers are recognised."""
    command = [sys.executable, *[str(word) for word in command]]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL, text=True, **options
    )


def assert_all_end(process: subprocess.Popen, seconds: float = 20) -> None:
    """Kill the first process alone, and wait until the others have ended."""
    process.kill()
    process.wait()
    deadline = time.monotonic() + seconds
    while left := processes_of(process.pid):
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"processes outlive their parent: {left}")
        time.sleep(0.1)


pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")

POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from urgt_jax.workers import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, get_context("spawn"), initializer=end_with_parent)
    print(list(pool.map(abs, [-1, -2])), flush=True)
    pool.submit(time.sleep, 1000)
    sys.stdin.read()
"""


def test_workers_end_with_their_parent(tmp_path):
    program = tmp_path / "pool.py"
    program.write_text(POOL)
    process = start(
        [program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "[1, 2]\n"
    assert len(processes_of(process.pid)) >= 3
    assert_all_end(process)


BATCHES = """
import sys
from urgt_jax.config_files import load_config
from urgt_jax.data.pipeline import batch_iterator
if __name__ == "__main__":
    batches = batch_iterator(load_config(sys.argv[1]), start=0)
    next(batches)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_that_prepare_batches_end_with_a_killed_run(micro, tmp_path):
    config = with_changes(micro, {"data.workers": 2})
    program = tmp_path / "batches.py"
    program.write_text(BATCHES)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    process = start(
        [program, config_file(config, Path(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n"
    assert len(processes_of(process.pid)) >= 3
    assert_all_end(process)


@pytest.mark.slow
def test_workers_of_prepare_end_with_it(tmp_path):
    source = miniature_sets.unreal4k(Path(tmp_path) / "source", (540, 960), frames=20)
    out = Path(tmp_path) / "out"
    process = start(
        ["-m", "urgt_jax", "prepare", "unreal4k", "--workers", 2, "--source", source, "--out", out],
        stdout=subprocess.DEVNULL,
    )
    while not list(out.glob("*.array_record-*")) and process.poll() is None:
        time.sleep(0.05)  # until workers write
    assert process.poll() is None
    assert len(processes_of(process.pid)) >= 3
    assert_all_end(process)
