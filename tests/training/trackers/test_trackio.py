"""Trackio in a folder of its own: points of a run and of its resume."""

import subprocess
import sys

import pytest
from etils.epath import Path

pytest.importorskip("trackio")
ROOT = Path(__file__).parents[3]
# Trackio reads its folder when it is imported.
PROGRAM = """
import sys, os
import numpy as np
from etils.epath import Path
sys.path.insert(0, "tests")
from helpers.micro import MICRO
from urgt_jax.training.trackers.delivery import open_trackers
from urgt_jax.training.trackers.protocol import find_tracker

workdir = Path(sys.argv[1])
os.environ["TRACKIO_DIR"] = str(workdir / "trackio")
for start in (0, 2):
    trackers = open_trackers({"trackio": find_tracker("trackio")}, MICRO, workdir, start)
    for step in (start + 1, start + 2):
        trackers.write_scalars(step, {"loss": 0.5 * step})
    trackers.write_images(start + 2, {"depth": np.full((4, 6, 3), 200, np.uint8)})
    trackers.close()

from trackio.sqlite_storage import SQLiteStorage

name = f"{workdir.name}-{(workdir / 'run_id').read_text()}"
assert SQLiteStorage.get_runs("urgt") == [name], SQLiteStorage.get_runs("urgt")
logs = SQLiteStorage.get_logs("urgt", name)
points = {log["step"]: log["loss"] for log in logs if "loss" in log}
assert points == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}, logs
assert sum("images/depth" in log for log in logs) == 2, logs
config = SQLiteStorage.get_run_config("urgt", name)
assert config["data.scenes"] == 6 and "commit" in config, config
print("all points are there")
"""


@pytest.mark.slow
def test_run_and_its_resume_are_one_run(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert "all points are there" in process.stdout, process.stdout + process.stderr
    assert "failed" not in process.stdout
