"""What a run costs, per interval of its log: rates, time lost, use of the chip, memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.sharding import Mesh

from urgt_jax import hardware
from urgt_jax.config import Config
from urgt_jax.hardware import peak_memory
from urgt_jax.models import flops

WAITS = ("data", "compiling", "saving")  # what a step may have to wait for


class Throughput:
    """Counts from one reading to the next."""

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.devices = config, mesh.devices.size
        self.device = jax.local_devices()[0]
        self.chip = hardware.chip_of(self.device)
        self._begin()

    def _begin(self) -> None:
        self.since = time.monotonic()
        self.images = self.patches = 0
        self.flops = 0.0
        self.lost = dict.fromkeys(WAITS, 0.0)

    @contextmanager
    def losing(self, what: str) -> Iterator[None]:
        """Counts the time inside as lost to one of `WAITS`."""
        began = time.monotonic()
        yield
        self.lost[what] += time.monotonic() - began

    def step(self, images: int, patches: int) -> None:
        """Counts a step of so many images, with so many patches in each."""
        self.images, self.patches = self.images + images, self.patches + images * patches
        self.flops += images * flops.training(self.config, patches).total

    def read(self) -> dict[str, float]:
        """Rates per second, shares of the time, and GB since the last reading."""
        spent = time.monotonic() - self.since
        values = {
            "images_per_second": self.images / spent,
            "patches_per_second": self.patches / spent,
            **{f"lost_to_{what}": seconds / spent for what, seconds in self.lost.items()},
            **self._memory(),
        }
        if self.chip:
            peak = self.chip.peak(self.config.model.dtype) * self.devices
            values["utilisation"] = self.flops / spent / peak
        self._begin()
        return values

    def _memory(self) -> dict[str, float]:
        """The most that the first device ever held, or this process where devices do not say."""
        told = self.device.memory_stats() or {}
        if "peak_bytes_in_use" in told:
            held = {"memory_gb": told["peak_bytes_in_use"] / 1e9}
            limit = told.get("bytes_limit")
            return held | ({"memory_limit_gb": limit / 1e9} if limit else {})
        return {"memory_gb": peak_memory()}


def line(values: dict[str, float]) -> str:
    """A reading as people read it."""
    parts = [
        f"{values['images_per_second']:.3g} images/s {values['patches_per_second']:.3g} patches/s"
    ]
    if "utilisation" in values:
        parts.append(f"{values['utilisation']:.1%} of peak")
    limit = f" of {values['memory_limit_gb']:.3g}" if "memory_limit_gb" in values else ""
    parts.append(f"{values['memory_gb']:.3g}{limit} GB")
    lost = {what: values.get(f"lost_to_{what}", 0.0) for what in WAITS}
    told = ", ".join(f"{what} {share:.0%}" for what, share in lost.items() if share >= 0.005)
    return "  ".join([*parts, f"lost: {told}"] if told else parts)
