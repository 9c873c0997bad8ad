"""Throughput of a run: images per second, time lost, model FLOPs utilisation and memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

from urgt_jax.config import Config
from urgt_jax.hardware import chip_of, device_memory, peak_device_memory
from urgt_jax.models import flops

WAITS = ("data", "compilation", "checkpoint", "images")  # what a step may have to wait for


class Throughput:
    """Counts work and waiting time between two lines of the log."""

    def __init__(self, config: Config, mesh: Mesh):
        self.config = config
        self.device_count = mesh.devices.size
        self.device = jax.local_devices()[0]
        self.chip = chip_of(self.device)
        self.total_waits = dict.fromkeys(WAITS, 0.0)  # seconds since this was made
        self._reset()

    def _reset(self) -> None:
        self.start = time.monotonic()
        self.images = 0
        self.patches = 0
        self.flops = 0.0
        self.waits = dict.fromkeys(WAITS, 0.0)  # seconds since the last line of the log

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Count the time inside as waiting for one of `WAITS`."""
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self.waits[what] += seconds
        self.total_waits[what] += seconds

    def count_images(self, images: int, patches: int) -> None:
        """Count images of a step, with `patches` patches in each."""
        self.images += images
        self.patches += images * patches
        self.flops += images * flops.training(self.config, patches).total

    def read(self) -> dict[str, float]:
        """Rates, shares of the time and GB since the last call."""
        elapsed = time.monotonic() - self.start
        values = {
            "images_per_second": self.images / elapsed,
            "patches_per_second": self.patches / elapsed,
        }
        for what, seconds in self.waits.items():
            values[f"{what}_wait"] = seconds / elapsed
        values |= self._memory()
        if self.chip is not None:
            peak = self.chip.peak(self.config.model.dtype) * self.device_count
            values["mfu"] = self.flops / elapsed / peak
        self._reset()
        return values

    def _memory(self) -> dict[str, float]:
        """Peak memory of the first device, or of this process if the device does not report it."""
        memory = {"memory_gb": peak_device_memory(self.device)}
        limit = device_memory(self.device).get("bytes_limit")
        if limit:
            memory["memory_limit_gb"] = limit / 1e9
        return memory
