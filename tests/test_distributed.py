"""Several processes on loopback, each with some fake devices, as the hosts of a pod."""

import dataclasses
import json
import signal
import subprocess
import time

import numpy as np
import pytest
from etils.epath import Path
from helpers.command import config_file
from helpers.processes import connecting_options, start_python

from urgt_jax import distributed
from urgt_jax.commands.fields import FieldsParser
from urgt_jax.config import Config, Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.data import pipeline
from urgt_jax.errors import UserError
from urgt_jax.weights.tensor_files import open_tensors

MAIN = (
    "import sys, jax\n"
    "jax.config.update('jax_num_cpu_devices', int(sys.argv.pop(1)))\n"
    "jax.config.update('jax_default_matmul_precision', 'highest')\n"
    "from urgt_jax.commands.main import main\n"
    "sys.argv.insert(1, 'train')\n"
    "sys.exit(main())\n"
)


def _start(
    config: Config,
    folder: Path,
    count: int,
    devices: int,
    preludes: dict[int, str] | None = None,
) -> list[subprocess.Popen]:
    """The `count` processes of a run in `folder`/run; preludes are code that some run before."""
    words = [devices, config_file(config, folder), "--workdir", folder / "run"]
    processes = []
    for i, options in enumerate(connecting_options(count)):
        program = (preludes or {}).get(i, "") + MAIN
        processes.append(start_python("-c", program, *words, *options))
    return processes


def _finish(processes: list[subprocess.Popen]) -> list[str]:
    """Wait for processes that must succeed, and return their outputs."""
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    for process in processes:
        assert process.returncode == 0, "".join(outputs)
    return outputs


def _read_until(process: subprocess.Popen, start: str) -> None:
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"the process ended before {start}")


def _losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").open()]


def _weights(workdir: Path) -> dict[str, np.ndarray]:
    file = open_tensors(workdir / "weights.safetensors")
    return {name: tensor.read() for name, tensor in file.tensors.items()}


@pytest.fixture(scope="module")
def short(micro) -> Config:
    config = with_changes(micro, {"data.mix": (0.0, 1.0, 0.0, 0.0), "optim.steps": 6})
    return dataclasses.replace(config, mesh=Mesh(2, 2, 2))


@pytest.fixture(scope="module")
def one_process(short, tmp_path_factory) -> Path:
    """The work directory of a run in one process."""
    folder = Path(tmp_path_factory.mktemp("one"))
    _finish(_start(short, folder, 1, 8))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_like_one(short, one_process, tmp_path, count):
    outputs = _finish(_start(short, tmp_path, count, 8 // count))
    assert f"{count} processes" in outputs[0] and "step 6/6" in outputs[0]
    assert "step" not in outputs[1]
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(one_process), rtol=1e-5)
    weights = _weights(tmp_path / "run")
    expected = _weights(one_process)
    assert weights.keys() == expected.keys()
    for name, array in weights.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_checkpoint_of_four_processes_resumes_in_one_with_other_devices(
    short, one_process, tmp_path
):
    config = with_changes(short, {"train.save_every": 2})
    processes = _start(config, tmp_path, 4, 2)
    _read_until(processes[0], "step 3/")
    processes[2].send_signal(signal.SIGTERM)  # one host is preempted; all save and end
    assert [process.wait(timeout=200) for process in processes] == [0] * 4
    config = with_changes(config, {"mesh.data": 1, "mesh.fsdp": 2, "mesh.patch": 1})
    output = _finish(_start(config, tmp_path, 1, 2))[0]
    assert "resumes at step" in output
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(one_process), rtol=1e-5)


STOPPED_CLOCK = (
    "from types import SimpleNamespace\n"
    "from urgt_jax.training import loop\n"
    "loop.time = SimpleNamespace(monotonic=float)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "saved"), [(1, ["step_4", "step_6"]), (0, ["step_6"])])
def test_processes_whose_clocks_differ_save_when_the_first_one_says(
    short, one_process, tmp_path, stopped, saved
):
    changes = {"train.save_every": 99, "train.log_every": 2, "train.save_minutes": 1e-9}
    config = with_changes(short, changes)
    _finish(_start(config, tmp_path, 2, 4, {stopped: STOPPED_CLOCK}))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step_*")) == saved
    np.testing.assert_allclose(
        _losses(tmp_path / "run")[-1], np.mean(_losses(one_process)[-2:]), rtol=1e-5
    )


FAILS_AFTER_FIVE_BATCHES = (
    "from urgt_jax.data import pipeline\n"
    "from urgt_jax.errors import UserError\n"
    "def report(self, batch):\n"
    "    self.count = getattr(self, 'count', 0) + 1\n"
    "    if self.count > 5: raise UserError('this process fails')\n"
    "    return []\n"
    "pipeline.UnreadableImages.report = report\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("cause", ["killed", "fails"])
def test_when_one_process_dies_the_other_ends_and_both_can_resume(
    short, one_process, tmp_path, victim, cause
):
    config = with_changes(short, {"train.save_every": 2})
    preludes = {victim: FAILS_AFTER_FIVE_BATCHES} if cause == "fails" else {}
    processes = _start(config, tmp_path, 2, 4, preludes)
    if cause == "killed":
        _read_until(processes[0], "step 4/")
        processes[victim].kill()
    start = time.monotonic()
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    elapsed = time.monotonic() - start
    status = [process.returncode for process in processes]
    other = 1 - victim
    assert status[other] not in (0, 2)
    assert "has died or does not answer" in outputs[other], outputs[other]
    if cause == "killed":
        assert status[victim] == -signal.SIGKILL and elapsed < 120
        assert "error: this process fails" not in outputs[victim]
    else:
        assert status[victim] == 2 and "error: this process fails" in outputs[victim]
    outputs = _finish(_start(config, tmp_path, 2, 4))
    assert "resumes at step" in outputs[0]
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(one_process), rtol=1e-5)


WAITS = """
import argparse, sys, time
from urgt_jax import distributed
distributed.TIMEOUTS["heartbeat_timeout_seconds"] = 3
distributed.CONNECT_TIMEOUT = 6
parser = argparse.ArgumentParser()
distributed.add_options(parser)
parser.add_argument("phase")
args = parser.parse_args()
def command():
    distributed.wait_for_all("start")
    print("ready", flush=True)
    if args.phase == "compiling" or args.process == 1:
        time.sleep(99)  # without a word to the others
    distributed.wait_for_all("end")
def main():
    distributed.connect(args)
    return distributed.run(command)
from urgt_jax.errors import exit_status
sys.exit(exit_status(main))
"""


def _start_waiting(phase: str, numbers: list[int]) -> list[subprocess.Popen]:
    """Some of two processes that wait for each other, or that are busy for long."""
    options = connecting_options(2)
    processes = []
    for number in numbers:
        words = ["-c", WAITS, phase, *options[number]]
        processes.append(start_python(*words, stderr=subprocess.PIPE))
    return processes


@pytest.mark.parametrize("phase,victim", [("compiling", 0), ("compiling", 1), ("barrier", 1)])
def test_death_of_a_process_is_one_line_in_every_phase(phase, victim):
    processes = _start_waiting(phase, [0, 1])
    for process in processes:
        _read_until(process, "ready")
    processes[victim].kill()
    start = time.monotonic()
    other = processes[1 - victim]
    line = other.stderr.readline()
    assert time.monotonic() - start < 60
    assert line.startswith("error: ") and "has died or does not answer" in line, (
        line + other.stderr.read()
    )
    assert "Start all of them again with the same command" in line
    assert other.communicate(timeout=60)[1] == ""
    assert other.returncode not in (0, 2)
    error = processes[victim].communicate(timeout=60)[1]
    assert error.startswith(f"error: process {victim} was killed. ") and error.count("\n") == 1


def test_process_that_never_comes_is_one_line():
    # Each waits for a partner of its own; both wait at the same time, because that takes long.
    waiting = [*_start_waiting("barrier", [0]), *_start_waiting("barrier", [1])]
    for process in waiting:
        _, error = process.communicate(timeout=100)
        assert process.returncode not in (0, 2)
        lines = error.splitlines()
        if len(lines) > 1:  # on a slow machine it is said that the others are missing
            assert lines.pop(0).startswith("waiting for all 2 processes")
        assert len(lines) == 1
        assert lines[0].startswith("error: not all 2 processes connected to 127.0.0.1:")


@pytest.mark.parametrize("hosts", [2, 4])
def test_every_process_prepares_its_part_of_the_same_batch(short, hosts):
    whole = pipeline.Batches(short)[4]
    parts = [pipeline.Batches(short, host, hosts)[4] for host in range(hosts)]
    for name in whole:
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(whole[name], joined)


@pytest.mark.parametrize(
    "options,message",
    [
        (["--coordinator", "a:1"], "must be used together"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "must be from 0 to"),
    ],
)
def test_connect_rejects_options_that_do_not_go_together(options, message):
    parser = FieldsParser()
    distributed.add_options(parser)
    with pytest.raises(UserError, match=message):
        distributed.connect(parser.parse_args(options))
