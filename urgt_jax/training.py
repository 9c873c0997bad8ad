"""Trains a refiner: resumes where it was, saves in the background, tells how it goes."""

import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from urgt_jax import checkpoints, processes, sharding
from urgt_jax import config as configs
from urgt_jax.config import Config
from urgt_jax.data import pipeline
from urgt_jax.data.sources import open_pictures
from urgt_jax.errors import exit_status
from urgt_jax.log import Log, Progress, duration
from urgt_jax.optim import averaged
from urgt_jax.processes import say
from urgt_jax.step import State, initial_state, train_step


class Stop:
    """SIGTERM, Ctrl-C or a preemption notice: the run saves after the step it is in, and ends."""

    def __init__(self, saved: checkpoints.Checkpoints):
        self.asked, self.saved = False, saved
        # Of several processes JAX itself catches SIGTERM, and agrees with the others on a step.
        for number in (signal.SIGINT, *(() if jax.process_count() > 1 else (signal.SIGTERM,))):
            signal.signal(number, self._ask)

    def _ask(self, *_):
        self.asked = True

    def now(self, step: int) -> bool:
        """Whether to stop before this step; the same answer in all processes."""
        return self.saved.preempted(step) if jax.process_count() > 1 else self.asked


def train(config: Config, workdir: Path) -> State:
    """Runs the configuration to its end, or until asked to stop."""
    mesh = sharding.mesh_of(config)
    pictures = open_pictures(config, "train")  # fails before anything is written or compiled
    checkpoints.claim(workdir, config)
    saved = checkpoints.Checkpoints(workdir, config)
    stop = Stop(saved)
    start = saved.latest() or 0
    state = saved.restore(mesh) if start else initial_state(config, mesh)
    if config.init and not start:
        state = state._replace(params=checkpoints.start_from(state.params, config))
    _introduce(config, workdir, start, state, mesh)
    if start < config.optim.steps:
        ahead = pipeline.batches(config, start, *sharding.share(mesh), source=pictures)
        state = _loop(config, workdir, mesh, state, start, ahead, saved, stop)
    done = int(state.step)
    saved.save(state, done)
    saved.close()
    if done == config.optim.steps:
        params = averaged(state.opt, state.params)
        checkpoints.save_weights(workdir / "weights.safetensors", params, config)
        say(f"trained {done} steps: {workdir / 'weights.safetensors'}")
    else:
        say(f"stopped after step {done} and saved: the same command goes on from there")
    return state


def _introduce(config: Config, workdir: Path, start: int, state: State, mesh) -> None:
    size = sum(x.size for x in jax.tree.leaves(state.params)) / 1e6
    begin = f"resumes at step {start}" if start else "starts"
    axes = " x ".join(f"{name} {count}" for name, count in mesh.shape.items() if count > 1)
    say(
        f"{workdir} {begin} of {config.optim.steps}: {size:.2f} M parameters, "
        f"{mesh.devices.size} x {mesh.devices.flat[0].platform}{axes and f' ({axes})'}, "
        f"{jax.process_count()} processes, {config.model.dtype}"
    )


def _loop(
    config: Config, workdir: Path, mesh, state: State, start: int, ahead, saved, stop
) -> State:
    """Steps until the end; the metrics of a step are read while the next one runs."""
    step_of = train_step(config, mesh)
    told = Telling(config, Log(workdir, start, processes.first()), start)
    for step in range(start, config.optim.steps):
        if step > start and step % config.train.save_every == 0:
            saved.save(state, step)
        if stop.now(step):
            break
        began = time.monotonic()
        batch = next(ahead)
        waited = time.monotonic() - began
        told.compiling(batch["valid"].shape[1])
        state, metrics = step_of(state, sharding.on_mesh(batch, mesh))
        shape = batch["valid"].shape[0] * sharding.share(mesh)[1], batch["valid"].shape[1]
        told.step(step + 1, metrics, shape, waited)
    told.flush()
    return state


class Telling:
    """Collects what steps report, and tells it once per interval."""

    def __init__(self, config: Config, log: Log, start: int):
        self.config, self.log = config, log
        self.progress = Progress("train", config.optim.steps, start)
        self.since, self.pending = time.monotonic(), []
        self.images = self.patches = 0
        self.waited = 0.0
        self.compiled: set[int] = set()

    def compiling(self, patches: int) -> None:
        """Tells of a step that is about to be compiled, which can take a minute."""
        if patches not in self.compiled:
            self.compiled.add(patches)
            say(f"compiling the step for {patches} patches a picture ...")

    def step(self, step: int, metrics: dict, shape: tuple[int, int], waited: float) -> None:
        """Notes a step's metrics, which may still be in the making."""
        self.pending.append(metrics)
        self.images, self.patches = self.images + shape[0], self.patches + shape[0] * shape[1]
        self.waited += waited
        if step % self.config.train.log_every == 0 or step == self.config.optim.steps:
            self._tell(step)

    def _tell(self, step: int) -> None:
        fetched = jax.device_get(self.pending)
        spent = time.monotonic() - self.since
        values = {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}
        if not np.isfinite(values["loss"]):
            raise configs.UserError(f"the loss is not finite near step {step}: lower optim.rate")
        speed = {
            "images_per_second": self.images / spent,
            "patches_per_second": self.patches / spent,
            "waiting_for_data": self.waited / spent,
        }
        self.log.write(step, values | speed)
        self._print(step, values, speed)
        self.pending, self.since = [], time.monotonic()
        self.images = self.patches = 0
        self.waited = 0.0

    def _print(self, step: int, values: dict, speed: dict) -> None:
        terms = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        say(
            f"step {step}/{self.config.optim.steps}  {terms}  "
            f"{speed['images_per_second']:.1f} images/s  data {speed['waiting_for_data']:.0%}  "
            f"{duration(self.progress.left(step))} left"
        )

    def flush(self) -> None:
        """Waits for steps that are still in the making."""
        jax.block_until_ready(self.pending)


def main() -> None:
    """The command line of train.py."""
    parser = configs.FieldsParser(
        prog="train.py",
        description="Trains a refiner; a second call with the same workdir goes on.",
        epilog="Any field of the configuration can be set: --model.depth 12",
    )
    parser.add_argument("config", help="a file like configs/tiny.py")
    parser.add_argument("--workdir", type=Path, required=True, help="where the run is kept")
    processes.add_options(parser)
    told, rest = parser.parse_known_args()
    processes.connect(told)
    train(configs.override(configs.load(told.config), rest), told.workdir)


if __name__ == "__main__":
    sys.exit(exit_status(main))
