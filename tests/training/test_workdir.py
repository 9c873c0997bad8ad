"""Work directories: one run at a time, and one configuration."""

import dataclasses
import os
import re
import signal
import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.training.loop import TrainingRun, train
from urgt_jax.training.workdir import LOCK, WorkdirLock, check_lock, claim, lock_workdir

HOLDER = """
import sys, time
from etils.epath import Path
from urgt_jax.training.workdir import WorkdirLock
lock = WorkdirLock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(99)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the work directory."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_second_run_in_a_work_directory_is_turned_away_before_it_changes_anything(
    depth_only, tmp_path, holder
):
    before = sorted((tmp_path / "run").iterdir())
    with pytest.raises(UserError, match=rf"run is in use by process {holder.pid} on \S+ since 20"):
        train(depth_only, tmp_path / "run")
    assert sorted((tmp_path / "run").iterdir()) == before


def test_lock_ends_with_its_process_even_if_it_is_killed(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    WorkdirLock(tmp_path / "run").release()


def test_lock_is_released_with_the_run_and_after_an_error(depth_only, tmp_path):
    run = TrainingRun(depth_only, tmp_path / "run")
    with pytest.raises(UserError, match="in use by process"):
        WorkdirLock(tmp_path / "run")
    run.release_workdir()
    with pytest.raises(UserError, match="another configuration"):
        TrainingRun(dataclasses.replace(depth_only, seed=7), tmp_path / "run")
    WorkdirLock(tmp_path / "run").release()


def test_later_run_takes_over_a_work_directory_in_a_store(store):
    workdir = Path("fake://b/run")
    first = lock_workdir(workdir)
    check_lock(first, workdir)
    assert re.match(rf"process {os.getpid()} on \S+ since 20", (workdir / LOCK).read_text())
    second = lock_workdir(workdir)
    with pytest.raises(UserError, match="fake://b/run was taken over by another run, which has"):
        check_lock(first, workdir)
    check_lock(second, workdir)


def test_claim_rejects_another_configuration(micro, tmp_path):
    claim(tmp_path / "run", micro)
    claim(tmp_path / "run", micro)
    claim(tmp_path / "run", with_changes(micro, {"mesh.fsdp": 2, "train.save_every": 3}))
    with pytest.raises(UserError, match="differs in seed"):
        claim(tmp_path / "run", dataclasses.replace(micro, seed=7))


@pytest.mark.parametrize("damage", [b"", b"\xff", b"{", b"[]"])
def test_claim_reports_a_damaged_configuration(micro, tmp_path, damage):
    claim(tmp_path / "run", micro)
    (tmp_path / "run/config.json").write_bytes(damage)
    with pytest.raises(UserError, match="config.json"):
        claim(tmp_path / "run", micro)
