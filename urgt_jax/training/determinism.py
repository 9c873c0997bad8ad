"""The same bits in every run of a configuration, on GPUs too, where they are not for free.

On CPUs and TPUs a program gives the same bits every time. On a GPU XLA chooses kernels by timing
them, and some kernels add up in a changing order. XLA's flag turns both off, cuDNN's attention
included (openxla/xla#14125).
"""

import os
from typing import Any

from urgt_jax.errors import UserError

FLAG = "--xla_gpu_deterministic_ops=true"
GPUS = ("gpu", "cuda", "rocm")
BLACKWELL = (
    10.0  # compute capability from which cuDNN's attention has no such gradients before 9.18
)


def request() -> None:
    """Asks XLA for deterministic kernels; must come before the first use of a device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG not in flags.split():
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()


def check(device: Any, uses_cudnn: bool) -> None:
    """Fails where the same bits cannot be promised; `device` is a JAX device."""
    if device.platform not in GPUS:
        return
    if FLAG not in os.environ.get("XLA_FLAGS", "").split():
        raise UserError(
            f"train.deterministic needs XLA_FLAGS={FLAG} before JAX is imported: set it, or use "
            "the command urgt train, which does"
        )
    if uses_cudnn and float(device.compute_capability) >= BLACKWELL:
        raise UserError(
            f"train.deterministic: cuDNN's attention may change bits from run to run on "
            f"{device.device_kind}: use --model.dtype tensorfloat32, which does without it"
        )
