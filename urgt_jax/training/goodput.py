"""Goodput: which share of a run's whole life, over all its starts, went into training."""

import contextlib
import json
import time

from etils.epath import Path

from urgt_jax.distributed import is_first_process, report
from urgt_jax.errors import UserError
from urgt_jax.files import parse_json, seal, unseal, write_text
from urgt_jax.progress import format_duration
from urgt_jax.training.throughput import WAITS, Throughput

FILE = "goodput.json"
PAUSE = 10.0  # seconds between two records at lines of the log
COUNTS = ("starts", "steps", "lost_steps", "last_step")
SECONDS = ("seconds", "startup_seconds", *(f"{what}_seconds" for what in WAITS))


class Goodput:
    """Adds up steps and seconds over all starts of a run, in goodput.json of its work directory.

    A start begins when this is made. What a killed start did after its last record is not counted.
    There is one at every checkpoint, and at lines of the log that are `PAUSE` seconds apart. Only
    the first process of a run writes.
    """

    def __init__(self, workdir: Path, throughput: Throughput):
        self.path = workdir / FILE
        self.throughput = throughput
        self.begin = time.monotonic()
        self.last_record = self.begin
        self.earlier = dict.fromkeys((*COUNTS, *SECONDS), 0)  # of the starts before this one
        self.first_step = 0
        self.step = 0
        self.startup = 0.0
        self.writes = is_first_process()

    def start(self, step: int) -> None:
        """Count this start of the run, which trains from a step on; call it before the first."""
        if self.writes and self.path.exists():
            self.earlier = self._read()
        self.first_step = step
        self.step = step
        self.startup = time.monotonic() - self.begin
        self.record()

    def add_step(self, step: int) -> None:
        """Count a step, numbered from 1."""
        self.step = step

    def record(self, pause: float = 0.0) -> None:
        """Write the file, unless it was written less than `pause` seconds ago.

        A file that cannot be written costs the account, but not the run.
        """
        now = time.monotonic()
        if not self.writes or now - self.last_record < pause:
            return
        self.last_record = now
        with contextlib.suppress(UserError, OSError):
            write_text(self.path, json.dumps(seal(self.totals())) + "\n")

    def totals(self) -> dict[str, float]:
        """Counts and seconds over all starts so far."""
        repeated = max(self.earlier["last_step"] - self.first_step, 0)
        now = {
            "starts": 1,
            "steps": self.step - self.first_step,
            "lost_steps": repeated,
            "seconds": time.monotonic() - self.begin,
            "startup_seconds": self.startup,
        }
        for what, seconds in self.throughput.total_waits.items():
            now[f"{what}_seconds"] = seconds
        totals = {name: self.earlier[name] + value for name, value in now.items()}
        totals["last_step"] = self.step
        return totals

    def summary(self) -> list[str]:
        """The share of the time that went into steps that count, and where the rest went."""
        totals = self.totals()
        trained = totals["seconds"] - totals["startup_seconds"]
        for what in WAITS:
            trained -= totals[f"{what}_seconds"]
        repeated = trained * totals["lost_steps"] / max(totals["steps"], 1)
        share = (trained - repeated) / totals["seconds"]
        losses = {"startup": totals["startup_seconds"]}
        for what in WAITS:
            losses[what] = totals[f"{what}_seconds"]
        losses["repeated steps"] = repeated
        parts = [f"{what} {format_duration(seconds)}" for what, seconds in losses.items()]
        lost = f"{totals['lost_steps']} of {totals['steps']}"
        return [
            f"goodput: {share:.0%} of {format_duration(totals['seconds'])}; restarts: "
            f"{totals['starts'] - 1}; steps lost and repeated: {lost}",
            f"the rest: {', '.join(parts)}",
        ]

    def _read(self) -> dict[str, float]:
        try:
            values = unseal(parse_json(self.path.read_bytes()))
            return {name: values[name] for name in (*COUNTS, *SECONDS)}
        except (ValueError, KeyError, OSError) as error:
            report(f"{self.path} cannot be read ({error}): times are summed up from here on")
            return self.earlier
