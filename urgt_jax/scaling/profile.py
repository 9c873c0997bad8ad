"""Profiles of compiled programs, and which of their kernels cost most."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from etils.epath import Path
from jax.profiler import ProfileData

from urgt_jax.files import find_paths
from urgt_jax.remote import local_copy, staged

# Operations that contain others, whose time is counted where it is spent.
CONTAINERS = ("while", "call", "conditional")


class Kernel(NamedTuple):
    """One kind of kernel in a profile."""

    name: str
    calls: int
    seconds: float  # of all calls
    share: float  # of the time of all kernels


@contextmanager
def tracing(folder: Path | None) -> Iterator[None]:
    """Writes a profile of what runs inside; nothing without a folder."""
    if folder is None:
        yield
        return
    # JAX names a trace by the second, in which a stage may run several times.
    number = len(find_paths(folder, "*"))
    with staged(folder / f"{number:03}") as local, jax.profiler.trace(str(local)):
        yield


def costliest(folder: Path, count: int) -> list[Kernel]:
    """The kernels that took most time in the profiles of a folder, the costliest first."""
    seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    for path in find_paths(folder, "*/plugins/profile/*/*.xplane.pb"):
        for name, duration in _kernel_times(ProfileData.from_file(str(local_copy(path)))):
            seconds[name] = seconds.get(name, 0.0) + duration
            calls[name] = calls.get(name, 0) + 1
    total = sum(seconds.values())
    names = sorted(seconds, key=lambda name: -seconds[name])
    kernels = []
    for name in names[:count]:
        kernels.append(Kernel(name, calls[name], seconds[name], seconds[name] / total))
    return kernels


def _kernel_times(profile: ProfileData) -> Iterator[tuple[str, float]]:
    """The name and the seconds of every run of a kernel."""
    for plane in profile.planes:
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):
            # Other lines show the same time again. A TPU has no streams.
            streams = [line for line in lines if line.name.startswith("Stream")]
            lines = streams or [line for line in lines if line.name == "XLA Ops"]
        for line in lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats and not str(stats["hlo_op"]).startswith(CONTAINERS):
                    yield str(event.name), event.duration_ns / 1e9


def print_costliest(folder: Path, parts: tuple[str, ...], count: int = 10) -> None:
    """Prints the costliest kernels of each part, whose profiles are in folders of these names."""
    print(f"profile: {folder} (xprof --logdir {folder}, with pip install xprof)")
    for part in parts:
        print(f"{part}, the {count} costliest kernels:")
        for kernel in costliest(folder / part, count):
            print(
                f"  {1e3 * kernel.seconds:9.3f} ms {kernel.share:6.1%} {kernel.calls:6} x "
                f"{kernel.name[:90]}",
                flush=True,
            )
