"""The memory of this machine, and the published peaks of accelerators."""

import os
import resource
import sys
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from etils.epath import Path

from urgt_jax.errors import UserError

GB = 1e9
GIB = 2.0**30
TERA = 1e12


def check_platforms() -> None:
    """Fails in one line if JAX has no device of the platforms that JAX_PLATFORMS names."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if not platforms:
        return
    import jax  # not needed for the rest of this file, and slow

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(" (set JAX_PLATFORMS")[0].rstrip(".") or "it is not installed"
        raise UserError(
            f"JAX has no device for JAX_PLATFORMS={platforms}: {reason[:200]}. Unset it, or "
            'install what it needs, such as pip install "urgt-jax[cuda]"'
        ) from error


def peak_memory() -> float:
    """The most memory that this process has held so far, GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def device_memory(device: Any) -> dict[str, int]:
    """What a device reports about its memory, bytes; nothing where it does not."""
    return device.memory_stats() or {}


def peak_device_memory(device: Any) -> float:
    """The most memory held on a device so far, or by this process where the device does not say.

    GB (10^9 bytes).
    """
    peak = device_memory(device).get("peak_bytes_in_use")
    return peak_memory() if peak is None else peak / 1e9


def total_memory() -> int:
    """The memory of this machine, bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """The memory available to a process, file caches included, bytes.

    Half of all memory if the system does not report it.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            kibibytes = int(line.split()[1])
            return 1024 * kibibytes
    return total_memory() // 2


@dataclass(frozen=True)
class Chip:
    """Peaks of a chip, or of a JAX device that is a part of one."""

    name: str
    kinds: tuple[str, ...]  # prefixes of JAX's `device_kind`
    bfloat16: float  # FLOP/s
    tensorfloat32: float  # FLOP/s; of three passes of bfloat16 on TPUs
    float32: float  # FLOP/s; of six passes of bfloat16 on TPUs
    hbm: float  # memory, bytes
    hbm_bandwidth: float  # bytes/s
    interconnect: float  # bytes/s in one direction
    devices: int = 1  # JAX devices per chip
    slice_network: float | None = None  # bytes/s to other slices; None where it is not published

    def peak(self, dtype: str) -> float:
        """FLOP/s of matrix products in a dtype."""
        peaks = {"float32": self.float32, "tensorfloat32": self.tensorfloat32}
        return peaks.get(dtype, self.bfloat16)

    def cut(self, parts: int) -> "Chip":
        """One of `parts` equal parts of the chip."""
        slice_network = None if self.slice_network is None else self.slice_network / parts
        return replace(
            self,
            devices=1,
            bfloat16=self.bfloat16 / parts,
            tensorfloat32=self.tensorfloat32 / parts,
            float32=self.float32 / parts,
            hbm=self.hbm / parts,
            hbm_bandwidth=self.hbm_bandwidth / parts,
            interconnect=self.interconnect / parts,
            slice_network=slice_network,
        )


CHIPS: tuple[Chip, ...] = (
    # docs.cloud.google.com/tpu/docs/v3; links: table 4 of Jouppi et al., ISCA 2023 (4 x 70 GB/s).
    Chip(
        name="v3",
        kinds=("TPU v3",),
        bfloat16=123 * TERA,
        tensorfloat32=123 / 3 * TERA,
        float32=123 / 6 * TERA,
        hbm=32 * GIB,
        hbm_bandwidth=900 * GB,
        interconnect=280 * GB,
        devices=2,
    ),
    # docs.cloud.google.com/tpu/docs/v4; links: the same table (6 x 50 GB/s).
    Chip(
        name="v4",
        kinds=("TPU v4",),
        bfloat16=275 * TERA,
        tensorfloat32=275 / 3 * TERA,
        float32=275 / 6 * TERA,
        hbm=32 * GIB,
        hbm_bandwidth=1200 * GB,
        interconnect=300 * GB,
    ),
    # docs.cloud.google.com/tpu/docs/v5e: 16 GB, 819 GB/s, 400 GB/s in both directions, and
    # 6.4 Tbit/s to other slices for the 256 chips of a pod.
    Chip(
        name="v5e",
        kinds=("TPU v5 lite", "TPU v5e"),
        bfloat16=197 * TERA,
        tensorfloat32=197 / 3 * TERA,
        float32=197 / 6 * TERA,
        hbm=16 * GIB,
        hbm_bandwidth=819 * GB,
        interconnect=200 * GB,
        slice_network=6400 / 8 / 256 * GB,
    ),
    # docs.cloud.google.com/tpu/docs/v5p-training: 95 GiB, 2765 GB/s, 1200 GB/s in both directions,
    # 50 Gbit/s to other slices.
    Chip(
        name="v5p",
        kinds=("TPU v5p", "TPU v5"),
        bfloat16=459 * TERA,
        tensorfloat32=459 / 3 * TERA,
        float32=459 / 6 * TERA,
        hbm=95 * GIB,
        hbm_bandwidth=2765 * GB,
        interconnect=600 * GB,
        slice_network=50 / 8 * GB,
    ),
    # docs.cloud.google.com/tpu/docs/v6e: 32 GB, 1638 GB/s, 800 GB/s in both directions.
    Chip(
        name="v6e",
        kinds=("TPU v6 lite", "TPU v6e"),
        bfloat16=918 * TERA,
        tensorfloat32=918 / 3 * TERA,
        float32=918 / 6 * TERA,
        hbm=32 * GIB,
        hbm_bandwidth=1638 * GB,
        interconnect=400 * GB,
    ),
    # docs.cloud.google.com/tpu/docs/tpu7x: 192 GiB, 7380 GB/s, 1200 GB/s in both directions.
    Chip(
        name="tpu7x",
        kinds=("TPU7x", "TPU v7"),
        bfloat16=2307 * TERA,
        tensorfloat32=2307 / 3 * TERA,
        float32=2307 / 6 * TERA,
        hbm=192 * GIB,
        hbm_bandwidth=7380 * GB,
        interconnect=600 * GB,
        devices=2,
    ),
    # NVIDIA's data sheets of A100, H100 and H200: SXM, without sparsity, NVLink's 600 or 900 GB/s
    # in both directions.
    Chip(
        name="A100 40 GB",
        kinds=("NVIDIA A100-SXM4-40GB",),
        bfloat16=312 * TERA,
        tensorfloat32=156 * TERA,
        float32=19.5 * TERA,
        hbm=40 * GIB,
        hbm_bandwidth=1555 * GB,
        interconnect=300 * GB,
    ),
    Chip(
        name="A100 80 GB",
        kinds=("NVIDIA A100-SXM4-80GB",),
        bfloat16=312 * TERA,
        tensorfloat32=156 * TERA,
        float32=19.5 * TERA,
        hbm=80 * GIB,
        hbm_bandwidth=2039 * GB,
        interconnect=300 * GB,
    ),
    Chip(
        name="H100",
        kinds=("NVIDIA H100 80GB HBM3",),
        bfloat16=989 * TERA,
        tensorfloat32=494 * TERA,
        float32=67 * TERA,
        hbm=80 * GIB,
        hbm_bandwidth=3350 * GB,
        interconnect=450 * GB,
    ),
    Chip(
        name="H200",
        kinds=("NVIDIA H200",),
        bfloat16=989 * TERA,
        tensorfloat32=494 * TERA,
        float32=67 * TERA,
        hbm=141 * GB,
        hbm_bandwidth=4800 * GB,
        interconnect=450 * GB,
    ),
)


@runtime_checkable
class Device(Protocol):
    """What is read of a JAX device. JAX itself is not imported here."""

    device_kind: str


def chip_of(device: Device, devices_per_chip: int | None = None) -> Chip | None:
    """The peaks of a JAX device, or None if they are not known.

    A device is one of `devices_per_chip` equal parts of its chip. By default this is JAX's own
    number, which for a TPU v3 chip is two.
    """
    best = None
    best_length = 0
    for chip in CHIPS:
        for kind in chip.kinds:
            # The longest match: "TPU v5" also begins "TPU v5 lite", which is another chip.
            if device.device_kind.startswith(kind) and len(kind) > best_length:
                best = chip
                best_length = len(kind)
    if best is None:
        return None
    return best.cut(devices_per_chip or best.devices)
