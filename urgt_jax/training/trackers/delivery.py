"""Hands what a run logs to its trackers, without waiting for them."""

import contextvars
import dataclasses
import queue
import secrets
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from etils.epath import Path

from urgt_jax.commit import commit
from urgt_jax.config import Config
from urgt_jax.config_files import flatten
from urgt_jax.distributed import is_first_process, report
from urgt_jax.errors import one_line
from urgt_jax.files import read_text, write_text
from urgt_jax.images.colour import RGB
from urgt_jax.training.trackers.protocol import TrackedRun, Tracker

MAX_WAITING = 1000  # entries that wait for a tracker before it counts as failed
CLOSE_SECONDS = 60  # that the end of a run waits for a tracker
RUN_ID = "run_id"  # file in the work directory


class Entry(NamedTuple):
    """What is logged at a step."""

    step: int
    scalars: dict[str, float]
    images: dict[str, RGB]


class Delivery:
    """One tracker and the thread that it runs in.

    A tracker that fails or does not keep up is reported once and gets nothing more.
    """

    def __init__(self, name: str, kind: type[Tracker], run: TrackedRun):
        self.name = name
        self.failed = False
        self.entries: queue.Queue[Entry | None] = queue.Queue(MAX_WAITING)
        # In the context of this thread, which knows where `report` prints.
        deliver = partial(contextvars.copy_context().run, self._deliver, kind, run)
        # A daemon: the program ends even if the tracker hangs.
        self.thread = threading.Thread(target=deliver, daemon=True)
        self.thread.start()

    def put(self, entry: Entry | None) -> None:
        """Add an entry; None is the last one."""
        if self.failed:
            return
        try:
            self.entries.put_nowait(entry)
        except queue.Full:
            self._fail(f"{MAX_WAITING} entries are waiting for it")

    def wait(self) -> None:
        """Wait for the thread, after the last entry."""
        self.thread.join(0 if self.failed else CLOSE_SECONDS)
        if self.thread.is_alive() and not self.failed:
            self._fail(f"it has not finished after {CLOSE_SECONDS} s")

    def _deliver(self, kind: type[Tracker], run: TrackedRun) -> None:
        try:
            tracker = kind(run)
            while (entry := self.entries.get()) is not None:
                if entry.scalars:
                    tracker.write_scalars(entry.step, dict(entry.scalars))
                if entry.images:
                    tracker.write_images(entry.step, dict(entry.images))
            tracker.close()
        except BaseException as error:  # some packages call sys.exit
            self._fail(one_line(f"{type(error).__name__}: {error}"))

    def _fail(self, problem: str) -> None:
        if not self.failed:
            report(
                f"the tracker {self.name} failed and gets nothing more from this start of the run "
                f"({problem[:120]}). The run itself is not affected; metrics.jsonl is complete"
            )
        self.failed = True  # only now, since the end of a run does not wait for a failed tracker


class Trackers:
    """All trackers of a run."""

    def __init__(self, deliveries: Sequence[Delivery] = ()):
        self.deliveries = deliveries

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log the values of a step."""
        self._put(Entry(step, values, {}))

    def write_images(self, step: int, images: dict[str, RGB]) -> None:
        """Log images of a step."""
        self._put(Entry(step, {}, images))

    def close(self) -> None:
        """Wait until all trackers have stored everything, but not forever."""
        self._put(None)
        for delivery in self.deliveries:
            delivery.wait()

    def _put(self, entry: Entry | None) -> None:
        for delivery in self.deliveries:
            delivery.put(entry)


def open_trackers(
    kinds: Mapping[str, type[Tracker]], config: Config, workdir: Path, step: int
) -> Trackers:
    """The trackers of a run that starts or resumes at a step; none but in its first process."""
    if not kinds or not is_first_process():
        return Trackers()
    path = workdir / RUN_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    fields = flatten(dataclasses.asdict(config))
    run_id = read_text(path, "id of the run").strip()
    run = TrackedRun(run_id, workdir.name or "run", workdir, step, fields, commit())
    return Trackers([Delivery(name, kind, run) for name, kind in kinds.items()])
