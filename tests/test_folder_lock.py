"""A folder that a command writes into belongs to one process at a time."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.errors import UserError
from urgt_jax.folder_lock import LOCK, FolderLock

HOLDER = """
import sys, time
from etils.epath import Path
from urgt_jax.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "--workdir")
print("locked", flush=True)
time.sleep(99)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder `run`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_second_process_is_turned_away_before_it_changes_anything(tmp_path, holder):
    before = sorted((tmp_path / "run").iterdir())
    message = rf"run is in use by process {holder.pid} on \S+ since 20.* another --out"
    with pytest.raises(UserError, match=message):
        FolderLock(tmp_path / "run", "--out")
    assert sorted((tmp_path / "run").iterdir()) == before


def test_lock_ends_with_its_process_even_if_it_is_killed(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    FolderLock(tmp_path / "run", "--out").release()
    assert not (tmp_path / "run" / LOCK).exists()


def test_lock_is_not_taken_on_a_file_that_its_owner_has_just_removed(tmp_path, monkeypatch):
    real = fcntl.flock

    def too_late(*arguments) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (tmp_path / LOCK).unlink()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", too_late)
    with FolderLock(tmp_path, "--out"), pytest.raises(UserError, match="in use by process"):
        FolderLock(tmp_path, "--out")


def test_lock_does_not_follow_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    os.symlink(tmp_path / "precious", tmp_path / LOCK)
    with pytest.raises(UserError, match="cannot open"):
        FolderLock(tmp_path, "--out")
    assert (tmp_path / "precious").read_text() == "mine"
