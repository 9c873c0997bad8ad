"""What a run promises: same bits after kills, same bits again, same results on another mesh."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from helpers.command import config_file

from urgt_jax.config import Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix, pipeline
from urgt_jax.errors import UserError
from urgt_jax.training import sharding
from urgt_jax.training.checkpoints import claim
from urgt_jax.training.step import initial_params, initial_state, train_step
from urgt_jax.weights.weight_file import load_weights, save_weights

ROOT = Path(__file__).parents[2]


def _train(config, folder: Path, name: str, wait=True):
    """Runs train.py as a user would, with the configuration in a file of its own."""
    file = config_file(config, folder)
    words = [sys.executable, ROOT / "train.py", file, "--workdir", folder / name]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if wait:
        out = process.communicate(timeout=300)[0]
        assert process.returncode == 0, out
    return process


def _wait_for_step(workdir: Path, wanted: int) -> None:
    for _ in range(3000):
        log = workdir / "metrics.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= wanted:
            return
        time.sleep(0.05)
    raise AssertionError(f"{workdir} did not reach step {wanted}")


def _weights(workdir: Path):
    return (workdir / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def short(micro):
    """A run that is long enough to be killed in the middle."""
    data = dataclasses.replace(micro.data, mix=(0, 1, 0, 0), batch=2)
    return dataclasses.replace(micro, data=data, optim=dataclasses.replace(micro.optim, steps=30))


@pytest.fixture(scope="module")
def left_alone(short, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    _train(short, folder, "run")
    return folder / "run"


def test_two_runs_agree_bit_for_bit(short, left_alone, tmp_path):
    _train(short, tmp_path, "run")
    assert _weights(tmp_path / "run") == _weights(left_alone)


@pytest.mark.parametrize(
    "sign,moment",
    [
        pytest.param("SIGKILL", 5, marks=pytest.mark.slow),
        ("SIGKILL", 18),
        ("SIGTERM", 9),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(short, left_alone, tmp_path, sign, moment):
    process = _train(short, tmp_path, "run", wait=False)
    _wait_for_step(tmp_path / "run", moment)
    os.kill(process.pid, getattr(signal, sign))
    out = process.communicate(timeout=60)[0]
    if sign == "SIGTERM":
        assert process.returncode == 0 and "goes on from there" in out, out
    else:
        assert process.returncode == -signal.SIGKILL
    again = _train(short, tmp_path, "run", wait=False)
    out = again.communicate(timeout=300)[0]
    assert again.returncode == 0 and ("resumes at step" in out or moment < 7), out
    assert _weights(tmp_path / "run") == _weights(left_alone)
    steps = [line.split(",")[0] for line in (tmp_path / "run/metrics.jsonl").open()]
    assert steps == [f'{{"step": {k}' for k in range(1, 31)]


@pytest.mark.slow
def test_twenty_kills_at_any_moment_change_no_bit(short, tmp_path):
    """Saves so often that many of them are cut off."""
    often = dataclasses.replace(
        short, train=dataclasses.replace(short.train, save_every=1),
        optim=dataclasses.replace(short.optim, steps=120),
    )  # fmt: skip
    _train(often, tmp_path, "alone")
    moments, resumed, cut = random.Random(0), 0, 0
    for _ in range(20):
        process = _train(often, tmp_path, "run", wait=False)
        line = next((line for line in process.stdout if line.startswith("step")), "")
        assert line, "the run was over before it was killed"
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.wait()
        cut += len(list((tmp_path / "run/checkpoints").glob("*tmp*")))
        resumed += any((tmp_path / "run/checkpoints").glob("step_*"))
    _train(often, tmp_path, "run")
    assert resumed == 20 and cut > 0
    assert _weights(tmp_path / "run") == _weights(tmp_path / "alone")


@pytest.fixture(scope="module")
def by_devices(micro):
    """One training step on one and on eight devices, from the same seed and batch."""
    batch = pipeline.Batches(micro)[_step_of(micro, 2)]
    found = {}
    for count in (1, 8):
        config = dataclasses.replace(micro, mesh=Mesh(data=count))
        mesh = sharding.make_mesh(config)
        state = initial_state(config, mesh)
        start = jax.device_get(state.params)  # before the step donates it
        after, metrics, _ = train_step(config, mesh)(state, batch)
        # Adam's first moment after one step is a tenth of the clipped gradient.
        gradient = optax.tree_utils.tree_get(after.opt_state, "mu")
        found[count] = jax.device_get((start, metrics, gradient))
    return found


def _step_of(config, m: int) -> int:
    return next(k for k in range(99) if gridmix.block_side(config, k) == m)


def test_eight_devices_start_with_the_weights_of_one(by_devices):
    jax.tree.map(np.testing.assert_array_equal, by_devices[1][0], by_devices[8][0])


def test_eight_devices_give_the_results_of_one(by_devices):
    (_, metrics, gradient), (_, other_metrics, other_gradient) = by_devices[1], by_devices[8]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, metrics, other_metrics)
    norm = lambda tree: np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    apart = jax.tree.map(lambda a, b: a - b, gradient, other_gradient)
    assert norm(apart) <= 1e-5 * norm(gradient)


def test_each_side_compiles_once(micro):
    micro = with_changes(micro, {"model.outputs": ("depth",)})  # half to compile
    mesh = sharding.make_mesh(micro)
    state, run = initial_state(micro, mesh), train_step(micro, mesh)
    batches, seen = pipeline.Batches(micro), []
    steps = [k for k in range(99) if gridmix.block_side(micro, k) <= 2][:6]
    for k in steps:
        side, before = gridmix.block_side(micro, k), run._cache_size()
        state, *_ = run(state, jax.device_put(batches[k], sharding.image_sharding(mesh)))
        # A test before this one may have compiled a side that is new here.
        assert run._cache_size() - before <= (0 if side in seen else 1)
        seen.append(side)
    assert sorted(set(seen)) == [1, 2] and len(seen) > 2


def test_a_workdir_keeps_to_its_configuration(micro, tmp_path):
    claim(tmp_path / "run", micro)
    claim(tmp_path / "run", micro)
    other = dataclasses.replace(micro, seed=7)
    with pytest.raises(UserError, match="differs in seed"):
        claim(tmp_path / "run", other)


def test_weights_come_back_as_they_were(micro, tmp_path):
    params = jax.device_get(initial_params(micro.model, 0))
    save_weights(tmp_path / "w.safetensors", params, micro)
    again, config = load_weights(tmp_path / "w.safetensors")
    assert config == micro
    jax.tree.map(np.testing.assert_array_equal, params, again)
