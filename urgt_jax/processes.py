"""Many processes, one run: how they find each other, and which of them speaks."""

import argparse

import jax

from urgt_jax.config import require


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a process finds the others."""
    add = parser.add_argument
    add("--distributed", action="store_true", help="one of many processes, on a TPU pod slice, "
        "under SLURM or Open MPI, where JAX finds the others by itself")  # fmt: skip
    add("--coordinator", metavar="HOST:PORT", help="of process 0, where JAX cannot find it")
    add("--processes", type=int, metavar="N", help="with --coordinator: how many there are")
    add("--process", type=int, metavar="I", help="with --coordinator: which one this is, from 0")


def connect(told: argparse.Namespace) -> None:
    """Joins the other processes; must come before anything touches a device."""
    given = [x is not None for x in (told.coordinator, told.processes, told.process)]
    require(all(given) or not any(given), "--coordinator, --processes and --process go together")
    if told.coordinator:
        require(
            0 <= told.process < told.processes,
            f"--process {told.process} must be from 0 to --processes - 1 = {told.processes - 1}",
        )
        jax.distributed.initialize(told.coordinator, told.processes, told.process)
    elif told.distributed:
        jax.distributed.initialize()


def first() -> bool:
    """Whether this is the process that writes logs and weights."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if first():
        print(text, flush=True)
