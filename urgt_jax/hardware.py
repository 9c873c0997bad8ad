"""What this machine and its accelerators have: memory, and the peaks their makers publish."""

import os
import resource
import sys
from dataclasses import dataclass, replace
from pathlib import Path


def peak_memory() -> float:
    """The most memory this process ever held, GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def total_memory() -> int:
    """Bytes of memory in all."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Bytes that a process can have, what only caches files included; half where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    told = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(told[0]) if told else total_memory() // 2


GB, GIB, TERA = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Chip:
    """Peaks of a chip, or of a device that is a part of one."""

    name: str
    kinds: tuple[str, ...]  # how `device_kind` begins
    bfloat16: float  # FLOP/s
    float32: float  # FLOP/s at JAX's default precision: bfloat16 on TPUs, TF32 on GPUs
    hbm: float  # bytes
    hbm_bandwidth: float  # bytes/s
    interconnect: float  # bytes/s that it sends
    devices: int = 1  # that JAX makes of a chip

    def peak(self, dtype: str) -> float:
        """FLOP/s of products of that dtype."""
        return {"bfloat16": self.bfloat16, "float32": self.float32}[dtype]

    def cut(self, parts: int) -> "Chip":
        """The share of one of so many equal parts."""
        figures = ("bfloat16", "float32", "hbm", "hbm_bandwidth", "interconnect")
        return replace(self, devices=1, **{name: getattr(self, name) / parts for name in figures})


def _tpu(name, kinds, tera, hbm, bandwidth, interconnect, devices=1) -> Chip:
    flops = tera * TERA
    return Chip(name, kinds, flops, flops, hbm, bandwidth * GB, interconnect * GB, devices)


def _gpu(name, kind, tera, tf32, hbm, bandwidth, interconnect) -> Chip:
    return Chip(
        name, (kind,), tera * TERA, tf32 * TERA, hbm, bandwidth * GB, interconnect * GB
    )  # fmt: skip


CHIPS: tuple[Chip, ...] = (
    # docs.cloud.google.com/tpu/docs/v3; links: table 4 of Jouppi et al., ISCA 2023 (4 x 70 GB/s).
    _tpu("v3", ("TPU v3",), 123, 32 * GIB, 900, 280, devices=2),
    # docs.cloud.google.com/tpu/docs/v4; links: the same table (6 x 50 GB/s).
    _tpu("v4", ("TPU v4",), 275, 32 * GIB, 1200, 300),
    # docs.cloud.google.com/tpu/docs/v5e: 16 GB, 819 GB/s, 400 GB/s in both directions.
    _tpu("v5e", ("TPU v5 lite", "TPU v5e"), 197, 16 * GIB, 819, 200),
    # docs.cloud.google.com/tpu/docs/v5p-training: 95 GiB, 2765 GB/s, 1200 GB/s in both directions.
    _tpu("v5p", ("TPU v5p", "TPU v5"), 459, 95 * GIB, 2765, 600),
    # docs.cloud.google.com/tpu/docs/v6e: 32 GB, 1638 GB/s, 800 GB/s in both directions.
    _tpu("v6e", ("TPU v6 lite", "TPU v6e"), 918, 32 * GIB, 1638, 400),
    # docs.cloud.google.com/tpu/docs/tpu7x: 192 GiB, 7380 GB/s, 1200 GB/s in both directions.
    _tpu("tpu7x", ("TPU7x", "TPU v7"), 2307, 192 * GIB, 7380, 600, devices=2),
    # NVIDIA's data sheets of A100, H100 and H200: SXM, without sparsity, NVLink's 600 or 900 GB/s
    # in both directions.
    _gpu("A100 40 GB", "NVIDIA A100-SXM4-40GB", 312, 156, 40 * GIB, 1555, 300),
    _gpu("A100 80 GB", "NVIDIA A100-SXM4-80GB", 312, 156, 80 * GIB, 2039, 300),
    _gpu("H100", "NVIDIA H100 80GB HBM3", 989, 494, 80 * GIB, 3350, 450),
    _gpu("H200", "NVIDIA H200", 989, 494, 141 * GB, 4800, 450),
)


def chip_of(device, shared: int | None = None) -> Chip | None:
    """Peaks of a JAX device, None if unknown; `shared` says how many devices its chip has become.

    A TPU v3 chip, for example, is two devices, each with half of it.
    """
    kind = device.device_kind
    known = [(len(k), chip) for chip in CHIPS for k in chip.kinds if kind.startswith(k)]
    if not known:
        return None
    chip = max(known, key=lambda one: one[0])[1]
    return chip.cut(shared or chip.devices)
