"""The training loop: resumes, saves in the background, and reports progress."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from etils.epath import Path, PathLike
from jax.sharding import Mesh

from urgt_jax.compile_cache import compile_timer
from urgt_jax.config import Config
from urgt_jax.data import pipeline
from urgt_jax.data.sources import open_training_source, trains_on_scored_images
from urgt_jax.distributed import (
    first_process_decides,
    ignore_line,
    is_first_process,
    report,
    report_to,
    wait_for_all,
)
from urgt_jax.errors import UserError
from urgt_jax.models.attention import CUDNN, kernel_name
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.progress import Progress
from urgt_jax.remote import open_path
from urgt_jax.streams import root_logger_unchanged
from urgt_jax.training import determinism, sharding
from urgt_jax.training.batches import batches as training_batches
from urgt_jax.training.checkpoints import EMPTY_LOG, Checkpoints, RunLog, StepMetrics
from urgt_jax.training.goodput import PAUSE, Goodput
from urgt_jax.training.log import MetricsLog
from urgt_jax.training.log_table import LogTable
from urgt_jax.training.losses import LossFunction, TrainingBatch
from urgt_jax.training.optimizer import averaged_params, check_frozen
from urgt_jax.training.profile import StepProfiler
from urgt_jax.training.spikes import SpikeDetector, steps_of_spikes
from urgt_jax.training.step import (
    METRICS,
    State,
    StepVerdict,
    TrainStep,
    initial_state,
    predictions,
    train_step,
)
from urgt_jax.training.throughput import WAITS, Throughput
from urgt_jax.training.trackers.delivery import Trackers, open_trackers
from urgt_jax.training.trackers.protocol import find_tracker
from urgt_jax.training.trackers.strips import draw_strips
from urgt_jax.training.workdir import claim, lock_workdir
from urgt_jax.weights.weight_file import initialize_from, save_weights

MAX_NAMED_IMAGES = 16  # in a message


def train(
    config: Config,
    workdir: PathLike,
    loss: LossFunction | None = None,
    report: Callable[[str], None] = ignore_line,
) -> State:
    """Train until the last step or until a signal asks to stop; resumes if the run was stopped.

    A loss of your own, (maps, batch) -> (loss, terms), replaces the configured one. It is not part
    of the configuration: pass the same one to resume. Its terms are logged. Nothing is printed
    without `report=print`, which gets the lines that `urgt train` prints.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the run after the current step and save a
    checkpoint. Their handlers are restored at the end, and none is installed outside the main
    thread.
    """
    # The configuration decides about dtypes. Otherwise JAX_ENABLE_X64 would make weights float64.
    with jax.enable_x64(False), report_to(report), root_logger_unchanged():
        return _train(config, open_path(workdir), loss)


def _train(config: Config, workdir: Path, loss: LossFunction | None) -> State:
    run = TrainingRun(config, workdir, loss)
    try:
        with StopRequest(run.checkpoints) as stop:
            state = run.restore_or_initialize()
            run.report_start(state)
            state = run.train(state, stop)
            run.finish(state)
    finally:
        run.close()
    return state


class StopRequest:
    """Listens for signals that ask to stop, and preemption notices, while its block runs.

    These are Ctrl-C, SIGTERM, SIGHUP of a closed terminal, and SIGUSR1 and SIGUSR2 of schedulers.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.requested = False
        self.previous_handlers = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python runs signal handlers in the main thread only
        signals = [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
        if jax.process_count() == 1:
            signals.append(signal.SIGTERM)
        # With several processes, JAX itself catches SIGTERM and makes all stop at the same step.
        for number in signals:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue  # as nohup asks for
            self.previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.previous_handlers.items():
            # The handler is None if it was not installed by Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, *_) -> None:
        self.requested = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def stops_before(self, step: int) -> bool:
        """Whether to stop before this step; the same answer in all processes."""
        if jax.process_count() > 1:
            return self.checkpoints.preempted(step)
        return self.requested


class TrainingRun:
    """A configuration that is trained in a work directory."""

    def __init__(self, config: Config, workdir: Path, loss: LossFunction | None = None):
        self.config = config
        self.workdir = workdir
        self.loss = loss
        self.mesh = sharding.make_mesh(config)
        check_frozen(config)
        if config.train.deterministic:
            uses_cudnn = CUDNN.name in attention_kernels(config, self.mesh)
            determinism.check(self.mesh.devices.flat[0], uses_cudnn)
        self.source = open_training_source(config)
        self.tracker_classes = {name: find_tracker(name) for name in config.train.trackers}
        # Everything that can be wrong with the configuration was checked above. Only now is
        # something written.
        self.lock = lock_workdir(workdir)
        try:
            claim(workdir, config)
            self.checkpoints = Checkpoints(workdir, config, self.lock)
        except BaseException:
            self.release_workdir()
            raise
        self.throughput = Throughput(config, self.mesh)
        self.goodput = Goodput(workdir, self.throughput)
        self.compiled_steps: dict[int, TrainStep] = {}  # by number of patches
        self.reporter: Reporter | None = None
        self.trackers = Trackers()

    def close(self) -> None:
        """Close the trackers, which may take long, and let others use the work directory."""
        self.trackers.close()
        if jax.process_count() == 1:  # the processes that others would wait for may be gone
            # After an error, which is the one to report.
            with contextlib.suppress(Exception):
                self.checkpoints.close()
        self.release_workdir()

    def release_workdir(self) -> None:
        """Let other processes use the work directory."""
        if self.lock is not None:
            self.lock.release()

    def restore_or_initialize(self) -> State:
        """The newest state in the work directory, or a first one."""
        state = self.checkpoints.restore(self.mesh)
        if state is not None:
            return state
        state = initial_state(self.config, self.mesh)
        if self.config.init:
            state = state._replace(params=initialize_from(state.params, self.config))
        return state

    def report_start(self, state: State) -> None:
        """Print what is trained, and on which devices."""
        start = int(state.step)
        verb = "resumes" if start else "starts"
        parameters = sum(x.size for x in jax.tree.leaves(state.params)) / 1e6
        device_kind = self.mesh.devices.flat[0].device_kind
        devices = f"{self.mesh.devices.size} x {device_kind}"
        axes = [f"{name} {count}" for name, count in self.mesh.shape.items() if count > 1]
        if axes:
            devices += f" ({' x '.join(axes)})"
        processes = jax.process_count()
        report(
            f"{self.workdir} {verb} at step {start} of {self.config.optim.steps}: "
            f"{parameters:.2f} M parameters, {devices}, "
            f"{processes} {'process' if processes == 1 else 'processes'}, "
            f"{self.config.model.dtype}, {attention_kernels(self.config, self.mesh)} attention"
        )
        data = self.config.data
        if trains_on_scored_images(data):
            report(
                f"{data.source} has no split for scoring: urgt eval --workdir would score the "
                "training images. Score other images with --data NAME PATH"
            )

    def train(self, state: State, stop: StopRequest) -> State:
        """Train until the last step or until `stop` asks to stop."""
        if int(state.step) >= self.config.optim.steps:
            return state
        self.trackers = open_trackers(
            self.tracker_classes, self.config, self.workdir, int(state.step)
        )
        reporter = Reporter(
            self.config,
            self.workdir,
            int(state.step),
            self.throughput,
            self.goodput,
            self.trackers,
            self.checkpoints.log,
        )
        self.reporter = reporter
        self.goodput.start(int(state.step))
        try:
            with StepProfiler(self.config.train.profile, self.workdir) as profiler:
                return self._train_steps(state, stop, reporter, profiler)
        except UserError:
            self.checkpoints.wait()  # for a checkpoint that is being written
            raise
        finally:
            reporter.close()

    def _train_steps(
        self, state: State, stop: StopRequest, reporter: "Reporter", profiler: StepProfiler
    ) -> State:
        config = self.config
        start = int(state.step)
        batches = pipeline.Batches(config, source=self.source)
        batch_iterator = self._batches_from(start)
        watch = StepWatch(config, batches, int(state.skipped))
        save_times = SaveTimes(config)
        for step in range(start, config.optim.steps):
            if step > start and save_times.due(step):
                watch.check()
                with self.throughput.waiting_for("checkpoint"):
                    self.checkpoints.save(state, step, reporter.run_log())
                self.goodput.record()
            if stop.stops_before(step):
                break
            try:
                with self.throughput.waiting_for("data"):
                    batch = next(batch_iterator)
            except UserError:
                # A signal to the process group also ends the workers that prepare batches. Several
                # processes must agree when they stop, which they do by themselves.
                if stop.requested and jax.process_count() == 1:
                    break
                raise
            sides = batches.block_sides(step)
            for m, count in Counter(sides).items():
                self.throughput.count_images(count, m * m)

            try:
                step_function = self._compiled_step(state, batch)
            except jax.errors.JaxRuntimeError:
                # A signal to the process group also ends the compiler's helpers, such as ptxas.
                if stop.requested:
                    break
                raise
            profiler.before(step + 1, state)
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics, verdict = step_function(state, batch)
            # The step runs in the background. Meanwhile the one before is checked.
            watch.add(step, verdict)
            reporter.add(step + 1, metrics, verdict)
            if config.train.images_every and (step + 1) % config.train.images_every == 0:
                jax.block_until_ready(state)  # so that the step does not count as waiting
                with self.throughput.waiting_for("images"):
                    maps = predictions(config, self.mesh, sides[0])(state.params, batch)
                    reporter.write_maps(step + 1, maps)
        watch.check()
        profiler.close(state)
        return state

    def _batches_from(self, start: int) -> Iterator[TrainingBatch]:
        """The batches from a step on, on the devices; reports images that cannot be read."""
        report_everywhere = partial(report, everyone=True)
        return training_batches(self.config, self.mesh, start, report_everywhere, self.source)

    def _compiled_step(self, state: State, batch: TrainingBatch) -> TrainStep:
        """The step, compiled for the number of patches in the batch."""
        patches = batch["valid"].shape[1]
        if patches not in self.compiled_steps:
            unit = "row" if self.config.data.packed else "image"
            report(f"compiling the step for {patches} patches per {unit} ...")
            timer = compile_timer()
            timer.take()
            with self.throughput.waiting_for("compilation"):
                step = train_step(self.config, self.mesh, self.loss)
                self.compiled_steps[patches] = step.lower(state, batch).compile()
                # Inside a step, processes wait for each other for a short time only.
                wait_for_all("compiled")
            report(timer.take())
        return self.compiled_steps[patches]

    def finish(self, state: State) -> None:
        """Save the state, and the weights if it is the last one."""
        step = int(state.step)
        with self.throughput.waiting_for("checkpoint"):
            run_log = EMPTY_LOG if self.reporter is None else self.reporter.run_log()
            self.checkpoints.save(state, step, run_log)
            self.checkpoints.close()
        if self.reporter is not None:
            self.goodput.record()
            for line in self.goodput.summary():
                report(line)
        if step < self.config.optim.steps:
            report(f"stopped after step {step}; checkpoint saved. Run the same command to resume.")
            return
        path = self.workdir / "weights.safetensors"
        save_weights(path, averaged_params(state.opt_state, state.params), self.config)
        wait_for_all("the weights are written")  # by the first process, which may take long
        report(f"trained {step} steps: {path}")


def attention_kernels(config: Config, mesh: Mesh) -> str:
    """The kernels of attention within a patch and across the patches of the largest block."""
    model = config.model
    platform = mesh.devices.flat[0].platform
    head_width = model.width // model.num_heads
    tokens = tokens_per_patch(model)
    names = [kernel_name(platform, model.dtypes.products, head_width, tokens)]
    if model.cross_patch:
        patches = config.data.patches(max(sharding.block_sides(config)))
        across = kernel_name(
            platform,
            model.dtypes.products,
            head_width,
            tokens * patches,
            config.data.packed,
        )
        if across not in names:
            names.append(across)
    return " and ".join(names)


class SaveTimes:
    """Decides before which steps a checkpoint is saved, the same in all processes.

    `train.save_minutes` is checked at every step in a run of one process. Several processes must
    agree, and do so where they wait for a step anyway: at the lines of the log.
    """

    def __init__(self, config: Config):
        self.train = config.train
        self.last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after this many steps."""
        if step % self.train.save_every != 0 and not self._minutes_have_passed(step):
            return False
        self.last = time.monotonic()
        return True

    def _minutes_have_passed(self, step: int) -> bool:
        if self.train.save_minutes == 0:
            return False
        if jax.process_count() > 1 and step % self.train.log_every != 0:
            return False
        passed = time.monotonic() - self.last
        return first_process_decides(passed >= 60 * self.train.save_minutes)


class StepWatch:
    """Checks whether a step was taken while the next one runs, and limits the skipped steps."""

    def __init__(self, config: Config, batches: pipeline.Batches, skipped: int):
        self.max_skipped = config.optim.max_skipped_steps
        self.max_norm = config.optim.skip_above_grad_norm
        self.batches = batches
        self.skipped = skipped
        self.pending: tuple[int, StepVerdict] | None = None

    def add(self, step: int, verdict: StepVerdict) -> None:
        """Check the step before, and keep this one to be checked later."""
        self.check()
        self.pending = (step, verdict)

    def check(self) -> None:
        """Report the pending step if it was skipped; fails if too many were."""
        if self.pending is None:
            return
        step, verdict = self.pending
        self.pending = None
        verdict = jax.device_get(verdict)
        if verdict.usable:
            return
        self.skipped += 1
        problem = f"step {step + 1} was skipped because {self._reason(float(verdict.grad_norm))}"
        images = self._describe_images(step, verdict.image_errors)
        if self.skipped > self.max_skipped:
            raise UserError(
                f"{problem}. {images}. Skipped steps: {self.skipped}, and optim.max_skipped_steps "
                f"allows {self.max_skipped}. Check these images, lower --optim.learning_rate or "
                "raise --optim.max_skipped_steps. Saved checkpoints are intact."
            )
        report(f"{problem} (skipped steps: {self.skipped} of at most {self.max_skipped}). {images}")

    def _reason(self, grad_norm: float) -> str:
        if not np.isfinite(grad_norm):
            return "the loss or its gradient is not finite"
        return (
            f"the gradient exploded: its norm {grad_norm:.3g} is above "
            f"optim.skip_above_grad_norm {self.max_norm:g}"
        )

    def _describe_images(self, step: int, errors: np.ndarray) -> str:
        """The images of the batch by number and name: those without a finite result, or all."""
        images = self.batches.drawn_images(step)
        order = np.flatnonzero(~np.isfinite(errors))
        title = "Images without a finite result"
        if order.size == 0:
            order = np.argsort(-errors)
            title = "Images of the batch, largest error first"
        names = []
        for i in order:
            index, name = images[i]
            text = f"{index} ({name})"
            if text not in names:
                names.append(text)
        text = f"{title}: {', '.join(names[:MAX_NAMED_IMAGES])}"
        if len(names) > MAX_NAMED_IMAGES:
            text += f" and {len(names) - MAX_NAMED_IMAGES} more"
        return text


class Reporter:
    """Averages the metrics of steps, and logs and prints them every `train.log_every` steps."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        start: int,
        throughput: Throughput,
        goodput: Goodput,
        trackers: Trackers,
        run_log: RunLog,
    ):
        self.config = config
        self.throughput = throughput
        self.goodput = goodput
        self.trackers = trackers
        # Metrics of steps that are in no line of the log yet: on the host, and perhaps not yet
        # computed, with whether the step was taken.
        self.known: list[StepMetrics] = list(run_log.unlogged)
        self.pending: list[tuple[dict, jax.Array]] = []
        logged = start - len(self.known)
        self.log = MetricsLog(workdir, start, is_first_process(), logged)
        self.spikes = SpikeDetector(run_log.recent)
        self.table = LogTable(config.optim.steps)
        self.progress = Progress("train", config.optim.steps, start)

    def add(self, step: int, metrics: dict[str, jax.Array], verdict: StepVerdict) -> None:
        """Add the metrics of a step, which may still be running."""
        self.pending.append((metrics, verdict.usable))
        self.goodput.add_step(step)
        if step % self.config.train.log_every == 0 or step == self.config.optim.steps:
            self._report(step)

    def _report(self, step: int) -> None:
        steps = self._fetch()
        self.known = []
        metrics = mean_metrics(steps)
        spikes = []
        for number, of_step in enumerate(steps, step + 1 - len(steps)):
            if of_step:  # skipped steps are reported anyway
                spikes += self.spikes.add(number, of_step)
        throughput = self.throughput.read()
        values = metrics | throughput
        marks = steps_of_spikes(spikes)
        self.log.write(step, values | marks)
        counts = {name: float(len(numbers)) for name, numbers in marks.items()}
        self.trackers.write_scalars(step, values | counts)
        self.goodput.record(PAUSE)
        for spike in spikes:
            report(str(spike))
        waited = sum(throughput[f"{what}_wait"] for what in WAITS)
        for line in self.table.lines(step, values | {"waited": waited}, self.progress.left(step)):
            report(line)

    def run_log(self) -> RunLog:
        """What the next lines of the log need of the steps so far."""
        return RunLog(self._fetch(), self.spikes.recent)

    def _fetch(self) -> list[StepMetrics]:
        """The metrics of the steps that are in no line of the log yet; empty for skipped ones."""
        for metrics, usable in jax.device_get(self.pending):
            values = {name: float(value) for name, value in metrics.items()} if usable else {}
            self.known.append(values)
        self.pending = []
        return self.known

    def write_maps(self, step: int, maps: dict[str, jax.Array]) -> None:
        """Show the maps of an image in the trackers."""
        if is_first_process():
            arrays = {name: np.asarray(x) for name, x in maps.items()}
            self.trackers.write_images(step, draw_strips(arrays))

    def close(self) -> None:
        """Close the log."""
        self.log.close()
        self.goodput.record()


def mean_metrics(steps: Sequence[StepMetrics]) -> dict[str, float]:
    """The mean of each metric over the steps that were taken."""
    means = {}
    own_terms = {name for metrics in steps for name in metrics}.difference(METRICS)
    for name in (*METRICS, *sorted(own_terms)):
        values = [metrics[name] for metrics in steps if name in metrics]
        if values:
            means[name] = float(np.mean(np.array(values, np.float32)))
    return means
