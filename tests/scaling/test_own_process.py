"""Work in a process of its own, and what is said about one that fails."""

import os
import signal

import pytest

from urgt_jax.errors import UserError
from urgt_jax.scaling.own_process import in_own_process


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)


def exhaust_memory() -> None:
    import jax

    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


def test_result_of_another_process_comes_back():
    assert in_own_process("a sum", sum, [1, 2]) == 3
    assert in_own_process("a number", os.getpid) != os.getpid()


@pytest.mark.parametrize(
    "number,message",
    [
        (signal.SIGKILL, r"a step does not run here: its process was killed \(SIGKILL\), as Linux"),
        (signal.SIGABRT, "a step does not run here: its process was ended by SIGABRT; its last"),
    ],
)
def test_process_that_dies_is_reported_by_its_signal(number, message):
    with pytest.raises(UserError, match=message):
        in_own_process("a step", end_by, number)


def test_errors_come_back_as_what_they_are():
    with pytest.raises(UserError, match="too little memory: RESOURCE_EXHAUSTED"):
        in_own_process("a step", exhaust_memory)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_own_process("a division", divmod, 1, 0)
