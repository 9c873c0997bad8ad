"""Runs that are killed or stopped end with the bits of an undisturbed run, as do repeated runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from etils.epath import Path
from helpers.command import config_file

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes

ROOT = Path(__file__).parents[2]


def _start(config: Config, folder: Path, name: str) -> subprocess.Popen:
    """Start train.py as a user would, with the configuration in a file of its own."""
    command = [sys.executable, ROOT / "train.py", config_file(config, folder)]
    return subprocess.Popen(
        [*command, "--workdir", folder / name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _train(config: Config, folder: Path, name: str) -> str:
    """Run train.py to its end and return its output."""
    process = _start(config, folder, name)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def _wait_for_step(workdir: Path, step: int) -> None:
    for _ in range(3000):
        log = workdir / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"{workdir} did not reach step {step}")


def _weights(workdir: Path) -> bytes:
    return (workdir / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def short(micro) -> Config:
    """A run that is long enough to be killed in the middle. One output compiles faster than two."""
    changes = {"data.mix": (0.0, 1.0, 0.0, 0.0), "data.batch": 2, "optim.steps": 30}
    changes["train.deterministic"] = True  # for GPUs, which these tests run on too
    return with_changes(micro, changes | {"model.outputs": ("depth",)})


@pytest.fixture(scope="module")
def undisturbed(short, tmp_path_factory) -> Path:
    folder = Path(tmp_path_factory.mktemp("undisturbed"))
    _train(short, folder, "run")
    return folder / "run"


def test_two_runs_agree_bit_for_bit(short, undisturbed, tmp_path):
    _train(short, tmp_path, "run")
    assert _weights(tmp_path / "run") == _weights(undisturbed)


@pytest.mark.parametrize(
    "name,step",
    [
        pytest.param("SIGKILL", 5, marks=pytest.mark.slow),  # before the first checkpoint
        ("SIGKILL", 18),
        ("SIGTERM", 9),
    ],
)
def test_stopped_run_resumes_to_the_same_bits(short, undisturbed, tmp_path, name, step):
    process = _start(short, tmp_path, "run")
    _wait_for_step(tmp_path / "run", step)
    os.kill(process.pid, getattr(signal, name))
    output = process.communicate(timeout=60)[0]
    if name == "SIGTERM":
        assert process.returncode == 0, output
        assert "checkpoint saved. Run the same command to resume" in output, output
    else:
        assert process.returncode == -signal.SIGKILL
    output = _train(short, tmp_path, "run")
    assert "resumes at step" in output or step < 7, output
    assert _weights(tmp_path / "run") == _weights(undisturbed)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 31))
    account = json.loads((tmp_path / "run/goodput.json").read_text())
    assert account["starts"] == 2 and account["last_step"] == 30
    assert account["steps"] == 30 + account["lost_steps"]
    assert account["startup_seconds"] > 0 and account["compilation_seconds"] > 0
    assert f"lost and repeated: {account['lost_steps']} of {account['steps']}" in output


@pytest.mark.slow
def test_twenty_kills_at_any_moment_change_no_bit(short, tmp_path):
    """Saves so often that many of the saves are interrupted."""
    changes = {"train.save_every": 1, "optim.steps": 120, "model.outputs": ("depth", "normal")}
    often = with_changes(short, changes)
    _train(often, tmp_path, "undisturbed")
    rng = random.Random(0)
    checkpoints = tmp_path / "run/checkpoints"
    resumable = 0
    interrupted_saves = 0
    for _ in range(20):
        process = _start(often, tmp_path, "run")
        line = next((line for line in process.stdout if line.startswith("step")), "")
        assert line, "the run was over before it was killed"
        time.sleep(rng.uniform(0, 1.5))
        process.kill()
        process.wait()
        interrupted_saves += len(list(checkpoints.glob("*tmp*")))
        resumable += any(checkpoints.glob("step_*"))
    _train(often, tmp_path, "run")
    assert resumable == 20 and interrupted_saves > 0
    assert _weights(tmp_path / "run") == _weights(tmp_path / "undisturbed")
