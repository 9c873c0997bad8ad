"""The training loop: skipped steps, signals, threads, notebooks, and errors in one line."""

import asyncio
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from etils.epath import Path
from helpers.command import config_file
from helpers.tracker_server import URL, TrackerServer

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import pipeline
from urgt_jax.errors import UserError
from urgt_jax.training import loop, spikes
from urgt_jax.training.checkpoints import Checkpoints
from urgt_jax.training.loop import StepWatch, StopRequest, TrainingRun, train
from urgt_jax.training.step import METRICS, StepVerdict
from urgt_jax.weights.tensor_files import open_tensors

ROOT = Path(__file__).parents[2]


def _watch(config: Config, **optim) -> StepWatch:
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))
    return StepWatch(config, pipeline.Batches(config), skipped=0)


NOT_FINITE = StepVerdict(
    usable=np.False_,
    grad_norm=np.float32("nan"),
    image_errors=np.array([1.0, np.nan] + [0.5] * 6, np.float32),
)


def test_step_watch_stops_at_a_skipped_step_and_names_the_image(depth_only):
    watch = _watch(depth_only)
    index, name = pipeline.Batches(depth_only).drawn_images(5)[1]
    watch.add(5, NOT_FINITE)
    message = rf"step 6 .* not finite\. Images without a finite result: {index} \({name}\)\. .* 1,"
    with pytest.raises(UserError, match=message):
        watch.check()


def test_step_watch_allows_as_many_skipped_steps_as_configured(depth_only, capsys):
    watch = _watch(depth_only, max_skipped_steps=2)
    for step in range(2):
        watch.add(step, NOT_FINITE)
        watch.add(step, NOT_FINITE._replace(usable=np.True_))
    watch.add(9, NOT_FINITE)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("(")[1].split(")")[0] for line in lines] == [
        "skipped steps: 1 of at most 2",
        "skipped steps: 2 of at most 2",
    ]
    with pytest.raises(UserError, match="step 10 .* Skipped steps: 3, .* allows 2"):
        watch.check()


def test_step_watch_names_images_of_an_exploded_gradient_by_error(depth_only):
    watch = _watch(depth_only)
    images = pipeline.Batches(depth_only).drawn_images(0)
    watch.add(0, StepVerdict(np.False_, np.float32(2e5), np.arange(8, dtype=np.float32)))
    with pytest.raises(UserError, match=rf"norm 2e\+05.*largest error first: {images[7][0]} \("):
        watch.check()


@pytest.fixture
def short(depth_only) -> Config:
    """Two steps, without accumulation."""
    return with_changes(depth_only, {"optim.steps": 2, "optim.accumulate": 1})


def _metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


@pytest.fixture(params=["plain", "thread", "notebook"])
def caller(request):
    """Calls a function as a program does, in a thread, or inside a running event loop."""

    def in_thread(function):
        results = []
        thread = threading.Thread(target=lambda: results.append(function()))
        thread.start()
        thread.join()
        return results[0]

    def in_event_loop(function):
        async def cell():
            return function()

        return asyncio.run(cell())

    def plain(function):
        return function()

    return {"plain": plain, "thread": in_thread, "notebook": in_event_loop}[request.param]


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def process_settings() -> dict:
    """What belongs to the whole process, and so to the program that calls the library."""
    loggers = {"root": logging.getLogger()}
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (logger.level or logger.handlers):
            loggers[name] = logger
    return {
        "signals": [signal.getsignal(number) for number in SIGNALS],
        "warnings": list(warnings.filters),
        "logging": {name: (x.level, list(x.handlers)) for name, x in loggers.items()},
        "hooks": [sys.excepthook, sys.unraisablehook, threading.excepthook],
        "streams": [sys.stdout, sys.stderr],
        "environment": dict(os.environ),
        "jax": dict(jax.config.values),
    }


def test_train_from_python_prints_nothing_and_leaves_the_process_as_it_was(
    short, tmp_path, caller, capfd, monkeypatch
):
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a program that has set up no log
    settings = process_settings()
    state = caller(lambda: train(short, tmp_path / "run"))
    assert state.step == 2 and (tmp_path / "run/weights.safetensors").exists()
    assert [line["step"] for line in _metrics(tmp_path / "run")] == [1, 2]
    assert "".join(capfd.readouterr()) == ""
    for name, value in process_settings().items():
        assert value == settings[name], name


def test_train_leaves_a_signal_alone_that_the_caller_ignores(depth_only, tmp_path):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest(Mock(spec=Checkpoints)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.requested and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with StopRequest(Mock(spec=Checkpoints)) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.fixture
def heeded_signals():
    """Signals stop the test's run, also if whoever started the tests ignores them (nohup does)."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in previous.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_train_stops_on_a_signal_and_restores_the_handlers(
    short, tmp_path, monkeypatch, capsys, number
):
    def save_weights(*_):
        raise AssertionError("the run was not stopped")

    def restore(run: TrainingRun):
        os.kill(os.getpid(), number)
        return original(run)

    original = TrainingRun.restore_or_initialize
    monkeypatch.setattr(TrainingRun, "restore_or_initialize", restore)
    monkeypatch.setattr(loop, "save_weights", save_weights)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    state = train(short, tmp_path / "run", report=print)
    assert state.step == 0 and (tmp_path / "run/checkpoints/step_0").is_dir()
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'run'} starts at step 0 of 2: ")
    assert last.startswith("stopped after step 0; checkpoint saved")
    assert handlers == [signal.getsignal(number) for number in SIGNALS]


def test_log_of_a_resumed_run_is_that_of_an_undisturbed_one(short, tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "FEWEST", 1)
    monkeypatch.setattr(spikes, "RATIO", 0.0)
    config = with_changes(short, {"optim.steps": 6, "train.log_every": 4, "train.save_every": 9})
    train(config, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "stops_before", lambda self, step: step == 2)
        assert train(config, tmp_path / "resumed").step == 2
    train(config, tmp_path / "resumed")
    undisturbed = _metrics(tmp_path / "undisturbed")
    resumed = _metrics(tmp_path / "resumed")
    assert [line["step"] for line in resumed] == [4, 6]
    for name in (*METRICS, "loss_spikes", "grad_norm_spikes"):
        values = [[line.get(name) for line in lines] for lines in (undisturbed, resumed)]
        assert values[0] == values[1], name
    assert any("loss_spikes" in line or "grad_norm_spikes" in line for line in resumed)


@pytest.mark.slow
def test_run_with_trackers_and_saves_by_minutes_keeps_its_bits(
    short, tmp_path, monkeypatch, capsys
):
    """Two trackers get the lines of metrics.jsonl and images; the server of one goes away."""
    pytest.importorskip("tensorboardX")
    config = with_changes(short, {"optim.steps": 8, "train.save_every": 99})
    train(config, tmp_path / "plain")
    changes = {
        "train.trackers": ("tensorboard", "helpers.tracker_server.HttpTracker"),
        "train.images_every": 4,
        "train.save_minutes": 1e-9,
    }
    tracked = with_changes(config, changes)
    with TrackerServer() as server:
        monkeypatch.setenv(URL, server.url)
        with monkeypatch.context() as patch:
            patch.setattr(StopRequest, "stops_before", lambda self, step: step == 5)
            train(tracked, tmp_path / "run")
        # Saved at every step, of which the newest two are kept.
        saved = [path.name for path in (tmp_path / "run/checkpoints").glob("step_*")]
        assert sorted(saved) == ["step_4", "step_5"]
        lines = _metrics(tmp_path / "run")
        for post, line in zip(server.of_kind("scalars"), lines, strict=True):
            assert post["step"] == line["step"] and post["values"].items() <= line.items()
        assert [post["step"] for post in server.of_kind("images")] == [4]
    capsys.readouterr()
    train(tracked, tmp_path / "run", report=print)  # without the server
    output = capsys.readouterr().out
    assert output.count("the tracker helpers.tracker_server.HttpTracker failed") == 1
    assert "tracker tensorboard" not in output and "goodput: " in output
    files = [open_tensors(tmp_path / name / "weights.safetensors") for name in ("plain", "run")]
    tensors = [{name: x.read().tobytes() for name, x in file.tensors.items()} for file in files]
    assert tensors[0] == tensors[1]
    assert [line["loss"] for line in _metrics(tmp_path / "plain")] == [
        line["loss"] for line in _metrics(tmp_path / "run")
    ]
    account = json.loads((tmp_path / "run/goodput.json").read_text())
    assert account["starts"] == 2 and account["steps"] == 8 and account["lost_steps"] == 0
    assert account["checkpoint_seconds"] > 0 and account["images_seconds"] > 0


def test_train_keeps_its_dtypes_where_jax_has_64_bits(short, tmp_path):
    expected = train(short, tmp_path / "usual")
    with jax.enable_x64(True):
        state = train(short, tmp_path / "wide")
    assert [x.dtype for x in jax.tree.leaves(state)] == [x.dtype for x in jax.tree.leaves(expected)]
    files = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("usual", "wide")]
    assert files[0] == files[1]


@pytest.mark.usefixtures("heeded_signals")
def test_train_stops_if_a_signal_also_ended_the_workers(short, tmp_path, monkeypatch, capsys):
    def batches(run: TrainingRun, start: int):
        os.kill(os.getpid(), signal.SIGHUP)
        raise UserError("a worker process was killed")
        yield

    monkeypatch.setattr(TrainingRun, "_batches_from", batches)
    assert train(short, tmp_path / "run", report=print).step == 0
    assert "stopped after step 0; checkpoint saved" in capsys.readouterr().out


@pytest.mark.parametrize("stopped", [True, False])
def test_train_stops_if_a_signal_also_ended_the_compiler(
    short, tmp_path, monkeypatch, capsys, stopped
):
    def compile_step(run: TrainingRun, state, batch):
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 15")

    monkeypatch.setattr(TrainingRun, "_compiled_step", compile_step)
    if not stopped:
        with pytest.raises(jax.errors.JaxRuntimeError, match="ptxas"):
            train(short, tmp_path / "run")
        return
    assert train(short, tmp_path / "run", report=print).step == 0
    assert "stopped after step 0; checkpoint saved" in capsys.readouterr().out


def test_train_restores_the_handlers_after_an_error(short, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("no state")

    monkeypatch.setattr(TrainingRun, "restore_or_initialize", fail)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(UserError, match="no state"):
        train(short, tmp_path / "run")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.slow
def test_urgt_train_on_a_full_disk_prints_one_line(depth_only, tmp_path):
    config = with_changes(depth_only, {"optim.steps": 3, "train.save_every": 1})
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "from urgt_jax.commands.main import main\n"
        "sys.exit(main())\n"
    )
    file = config_file(config, tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", program, "train", file, "--workdir", tmp_path / "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        # Compiled programs are read from the cache, but new ones are too large to be written.
        env=os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"},
    )
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: no checkpoint could be written to ")
    assert len(process.stderr.splitlines()) == 1, process.stderr


def test_train_rejects_a_mesh_before_it_writes_anything(short, tmp_path):
    config = with_changes(short, {"mesh.data": 3, "mesh.fsdp": 4})
    with pytest.raises(UserError, match="does not fit 8 devices"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
