"""Several processes on loopback, each with some fake devices, as hosts of a pod."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command import config_file

from urgt_jax import distributed
from urgt_jax.commands.fields import FieldsParser
from urgt_jax.config import Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.data import pipeline
from urgt_jax.errors import UserError
from urgt_jax.weights.tensor_files import open_tensors

ROOT = Path(__file__).parents[1]
MAIN = (
    "import sys, jax\n"
    "jax.config.update('jax_num_cpu_devices', int(sys.argv.pop(1)))\n"
    "jax.config.update('jax_default_matmul_precision', 'highest')\n"
    "from urgt_jax.commands.main import main\n"
    "sys.argv.insert(1, 'train')\n"
    "sys.exit(main())\n"
)


def _start(config, folder: Path, count: int, devices: int, workdir: Path, extra=()) -> list:
    """The processes of a run; `extra` says what some of them run before."""
    file = config_file(config, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(devices), file, "--workdir", workdir]
    if count > 1:
        command += ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", dict(extra).get(i, "") + MAIN, *command]
            + (["--process", str(i)] if count > 1 else []), cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for i in range(count)
    ]  # fmt: skip


def _wait(running: list) -> list[str]:
    out = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "".join(out)
    return out


def _losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").open()]


def _weights(workdir: Path) -> dict[str, np.ndarray]:
    file = open_tensors(workdir / "weights.safetensors")
    return {name: tensor.read() for name, tensor in file.tensors.items()}


@pytest.fixture(scope="module")
def short(micro):
    config = with_changes(
        micro, {"data.mix": (0.0, 1.0, 0.0, 0.0), "optim.steps": 6, "mesh.data": 2}
    )
    return dataclasses.replace(config, mesh=Mesh(2, 2, 2))


@pytest.fixture(scope="module")
def alone(short, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    _wait(_start(short, folder, 1, 8, folder / "run"))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_does(short, alone, tmp_path, count):
    out = _wait(_start(short, tmp_path, count, 8 // count, tmp_path / "run"))
    assert f"{count} processes" in out[0] and "step 6/6" in out[0] and "step" not in out[1]
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(alone), rtol=1e-5)
    one, two = _weights(alone), _weights(tmp_path / "run")
    assert all(np.allclose(one[name], two[name], atol=1e-4) for name in one)


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_in_one_with_other_devices(short, alone, tmp_path):
    running = _start(with_changes(short, {"train.save_every": 2}), tmp_path, 4, 2, tmp_path / "run")
    _until(running[0], "step 3/")
    running[2].send_signal(signal.SIGTERM)  # one host is told to go; all save and end
    assert [process.wait(timeout=200) for process in running] == [0] * 4
    other = with_changes(
        short, {"train.save_every": 2, "mesh.data": 1, "mesh.fsdp": 2, "mesh.patch": 1}
    )
    out = _wait(_start(other, tmp_path, 1, 2, tmp_path / "run"))[0]
    assert "resumes at step" in out
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(alone), rtol=1e-5)


FAILS = (
    "from urgt_jax.data import pipeline\n"
    "from urgt_jax.errors import UserError\n"
    "def take(self, batch):\n"
    "    self.count = getattr(self, 'count', 0) + 1\n"
    "    if self.count > 5: raise UserError('this process fails')\n"
    "    return []\n"
    "pipeline.Unread.take = take\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("way", ["killed", "fails"])
def test_when_one_process_dies_the_others_end_and_all_go_on_later(
    short, alone, tmp_path, victim, way
):
    config = with_changes(short, {"train.save_every": 2})
    extra = {victim: FAILS} if way == "fails" else {}
    running = _start(config, tmp_path, 2, 4, tmp_path / "run", extra)
    if way == "killed":
        _until(running[0], "step 4/")
        running[victim].kill()
    began = time.monotonic()
    out = [process.communicate(timeout=400)[0] for process in running]
    status = [process.returncode for process in running]
    other = 1 - victim
    assert status[other] not in (0, 2) and "has died or does not answer" in out[other], out[other]
    assert status[victim] == (2 if way == "fails" else -signal.SIGKILL)
    assert ("error: this process fails" in out[victim]) == (way == "fails")
    if way == "killed":
        assert time.monotonic() - began < 120
    out = _wait(_start(config, tmp_path, 2, 4, tmp_path / "run"))
    assert "resumes at step" in out[0]
    np.testing.assert_allclose(_losses(tmp_path / "run"), _losses(alone), rtol=1e-5)


def _until(process, start: str) -> None:
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended before {start}")


@pytest.mark.parametrize("hosts", [2, 4])
def test_every_process_prepares_its_part_of_the_same_batch(short, hosts):
    whole = pipeline.Batches(short)[4]
    parts = [pipeline.Batches(short, host, hosts)[4] for host in range(hosts)]
    for name in whole:
        np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))


@pytest.mark.parametrize(
    "words,told",
    [
        (["--coordinator", "a:1"], "go together"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "must be from 0 to"),
    ],
)
def test_options_that_do_not_go_together(words, told):
    parser = FieldsParser()
    distributed.add_options(parser)
    with pytest.raises(UserError, match=told):
        distributed.connect(parser.parse_args(words))
