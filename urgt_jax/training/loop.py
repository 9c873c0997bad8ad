"""The training loop: resumes, saves in the background and reports progress."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from urgt_jax import distributed
from urgt_jax.config import Config
from urgt_jax.data import pipeline
from urgt_jax.data.sources import PriorSource, open_training_source
from urgt_jax.distributed import is_first_process, report
from urgt_jax.errors import UserError
from urgt_jax.models.attention import kernel_name
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.progress import Progress, format_duration
from urgt_jax.training import sharding, tensorboard
from urgt_jax.training.checkpoints import Checkpoints, claim
from urgt_jax.training.log import MetricsLog
from urgt_jax.training.optimizer import averaged_params
from urgt_jax.training.step import (
    METRICS,
    State,
    StepVerdict,
    initial_state,
    predictions,
    train_step,
)
from urgt_jax.training.throughput import Throughput
from urgt_jax.training.throughput import line as meter_line
from urgt_jax.weights.weight_file import initialize_from, save_weights


class StopSignal:
    """SIGTERM, Ctrl-C or a preemption notice: the run saves after the step it is in, and ends."""

    def __init__(self, saved: Checkpoints):
        self.asked, self.saved = False, saved
        # Of several processes JAX itself catches SIGTERM, and agrees with the others on a step.
        for number in (signal.SIGINT, *(() if jax.process_count() > 1 else (signal.SIGTERM,))):
            signal.signal(number, self._ask)

    def _ask(self, *_):
        self.asked = True
        if jax.process_count() > 1:  # Ctrl-C
            os.kill(os.getpid(), signal.SIGTERM)

    def now(self, step: int) -> bool:
        """Whether to stop before this step; the same answer in all processes."""
        return self.saved.preempted(step) if jax.process_count() > 1 else self.asked


def train(config: Config, workdir: Path) -> State:
    """Runs the configuration to its end, or until asked to stop."""
    mesh = sharding.make_mesh(config)
    # These fail before anything is written or compiled.
    pictures = open_training_source(config)
    if config.train.tensorboard:
        tensorboard.writer()
    claim(workdir, config)
    saved = Checkpoints(workdir, config)
    stop = StopSignal(saved)
    state = saved.restore(mesh) or _first_state(config, mesh)
    start = int(state.step)
    _introduce(config, workdir, start, state, mesh)
    if start < config.optim.steps:
        run = TrainingRun(config, workdir, mesh, pictures, saved, state)
        try:
            state = run.go(state, stop)
        except UserError:
            saved.wait()  # for what is on its way to the disk
            raise
        finally:
            run.told.close()
    done = int(state.step)
    saved.save(state, done)
    saved.close()
    if done == config.optim.steps:
        params = averaged_params(state.opt, state.params)
        save_weights(workdir / "weights.safetensors", params, config)
        distributed.wait_for_all("the weights are written")  # which may take one of them long
        report(f"trained {done} steps: {workdir / 'weights.safetensors'}")
    else:
        report(f"stopped after step {done} and saved: the same command goes on from there")
    return state


def _first_state(config: Config, mesh: Mesh) -> State:
    state = initial_state(config, mesh)
    if config.init:
        state = state._replace(params=initialize_from(state.params, config))
    return state


def _kernel(config: Config, mesh: Mesh) -> str:
    """What computes attention within a patch and across the largest block of patches."""
    model, tokens = config.model, tokens_per_patch(config.model)
    platform, size = mesh.devices.flat[0].platform, model.width // model.num_heads
    names = [kernel_name(platform, model.dtype, size, tokens)]
    if model.cross_patch:
        most = tokens * config.data.patches(max(sharding.block_sides(config)))
        names.append(kernel_name(platform, model.dtype, size, most, config.data.packed))
    return " and ".join(dict.fromkeys(names))


def _introduce(config: Config, workdir: Path, start: int, state: State, mesh: Mesh) -> None:
    size = sum(x.size for x in jax.tree.leaves(state.params)) / 1e6
    begin = f"resumes at step {start}" if start else "starts"
    axes = " x ".join(f"{name} {count}" for name, count in mesh.shape.items() if count > 1)
    report(
        f"{workdir} {begin} of {config.optim.steps}: {size:.2f} M parameters, "
        f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}{axes and f' ({axes})'}, "
        f"{jax.process_count()} processes, {config.model.dtype}, {_kernel(config, mesh)} attention"
    )


class TrainingRun:
    """A run under way: its batches, what is told of it, and what watches over it."""

    def __init__(
        self, config: Config, workdir: Path, mesh: Mesh, pictures: PriorSource,
        saved: Checkpoints, state: State,
    ):  # fmt: skip
        self.config, self.mesh, self.saved, self.start = config, mesh, saved, int(state.step)
        self.pictures = pictures
        share = sharding.process_share(mesh)
        self.ahead = pipeline.batch_iterator(config, self.start, *share, source=pictures)
        self.unread = pipeline.UnreadableImages(config, pictures)
        self.batches = pipeline.Batches(config, source=pictures)
        self.watch = StepWatch(config, self.batches, int(state.skipped))
        self.meter = Throughput(config, mesh)
        self.told = Reporter(config, workdir, self.start, self.meter)
        self.compiled: dict[int, Callable] = {}  # by patches of a picture

    def go(self, state: State, stop: StopSignal) -> State:
        """Steps until the end; what one gives is read while the next one runs."""
        config, told, watch = self.config, self.told, self.watch
        for step in range(self.start, config.optim.steps):
            if step > self.start and step % config.train.save_every == 0:
                watch.read()
                with self.meter.losing("saving"):
                    self.saved.save(state, step)
            if stop.now(step):
                break
            batch = self._next(step)
            state, metrics, verdict = self._step(state, batch)
            watch.step(step, verdict)
            told.step(step + 1, metrics, verdict)
            if config.train.images_every and (step + 1) % config.train.images_every == 0:
                told.board.pictures(step + 1, self._pictures(step, state, batch))
        watch.read()
        return state

    def _next(self, step: int) -> dict:
        """The next batch, on its way to the devices."""
        with self.meter.losing("data"):
            batch = next(self.ahead)
        for line in self.unread.report(batch):
            report(line, everyone=True)
        for m, count in Counter(self.batches.block_sides(step)).items():
            self.meter.step(count, m * m)
        return sharding.put_on_mesh(batch, self.mesh)

    def _pictures(self, step: int, state: State, batch: dict) -> dict:
        """Maps of the batch's first block."""
        side = self.batches.block_sides(step)[0]
        return predictions(self.config, self.mesh, side)(state.params, batch)

    def _step(self, state: State, batch: dict):
        patches = batch["valid"].shape[1]
        if patches not in self.compiled:
            what = "a packed row" if "owner" in batch else "a picture"
            report(f"compiling the step for {patches} patches {what} ...")
            with self.meter.losing("compiling"):
                step_of = train_step(self.config, self.mesh)
                self.compiled[patches] = step_of.lower(state, batch).compile()
                distributed.wait_for_all("compiled")  # others' patience in a step is short
        return self.compiled[patches](state, batch)


class StepWatch:
    """Reads whether a step could be taken while the next one runs; stops where too many cannot."""

    def __init__(self, config: Config, batches: pipeline.Batches, skipped: int):
        self.allowed, self.batches, self.skipped = config.optim.max_skipped_steps, batches, skipped
        self.limit = config.optim.skip_above_grad_norm
        self.pending: tuple[int, StepVerdict] | None = None

    def step(self, step: int, verdict: StepVerdict) -> None:
        """Reads the verdict before, and keeps this one for later."""
        self.read()
        self.pending = step, verdict

    def read(self) -> None:
        """Tells of a step that was left out, which has changed nothing, or stops the run."""
        if self.pending is None:
            return
        (step, verdict), self.pending = self.pending, None
        usable, norm, far = jax.device_get(verdict)
        if usable:
            return
        self.skipped += 1
        what = f"step {step + 1}: {self._why(norm)}; {self._where(step, far)}"
        if self.skipped > self.allowed:
            raise UserError(
                f"{what}; steps left out so far: {self.skipped - 1}, and optim.max_skipped_steps allows "
                f"{self.allowed}: look at these pictures, lower --optim.learning_rate, or set --optim.max_skipped_steps "
                "higher; what was saved before is intact"
            )
        report(f"{what}; left out ({self.skipped} of at most {self.allowed})")

    def _why(self, norm: float) -> str:
        if np.isfinite(norm):
            return f"the gradient has exploded (norm {norm:.3g}, optim.skip_above_grad_norm {self.limit:g})"
        return "the loss or its gradient is not finite"

    def _where(self, step: int, far: np.ndarray) -> str:
        """The batch's pictures by number and name: those without a finite result, or all."""
        pictures = self.batches.drawn_images(step)
        bad = [i for i in range(len(far)) if not np.isfinite(far[i])]
        rows = bad or list(np.argsort(-far))
        names = list(dict.fromkeys(f"{pictures[i][0]} ({pictures[i][1]})" for i in rows))
        named = ", ".join(names[:16])
        more = f" and {len(names) - 16} more" if len(names) > 16 else ""
        kind = "without a finite result" if bad else "of the batch, farthest from the truth first"
        return f"pictures {kind}: {named}{more}"


class Reporter:
    """Collects what steps report, and tells it once per interval."""

    def __init__(self, config: Config, workdir: Path, start: int, meter: Throughput):
        self.config, self.meter, self.pending = config, meter, []
        self.log = MetricsLog(workdir, start, is_first_process())
        self.board = (
            tensorboard.TensorBoardWriter(workdir, start, is_first_process())
            if config.train.tensorboard
            else None
        )
        self.progress = Progress("train", config.optim.steps, start)

    def step(self, step: int, metrics: dict, verdict: StepVerdict) -> None:
        """Notes a step's metrics, which may still be in the making."""
        self.pending.append((metrics, verdict.usable))
        if step % self.config.train.log_every == 0 or step == self.config.optim.steps:
            self._tell(step)

    def _tell(self, step: int) -> None:
        fetched = jax.device_get(self.pending)
        self.pending = []
        usable = [metrics for metrics, good in fetched if good]
        values = {
            name: float(np.mean([metrics[name] for metrics in usable]))
            for name in METRICS
            if usable and name in usable[0]
        }
        cost = self.meter.read()
        self.log.write(step, values | cost)
        if self.board:
            self.board.numbers(step, values | cost)
        terms = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        left = format_duration(self.progress.left(step))
        report(f"step {step}/{self.config.optim.steps}  {terms}  {meter_line(cost)}  {left} left")

    def close(self) -> None:
        """Ends what is written for TensorBoard."""
        if self.board:
            self.board.close()
