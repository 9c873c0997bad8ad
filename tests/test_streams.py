"""Commands go on when nobody reads what they print."""

import csv
import logging
import os
import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.streams import root_logger_unchanged

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "urgt_jax", "scale", "--what", "flops", "--sizes", "tiny"]
PATCHES = ["1", "4", "9", "16"]


def start(out, stdout, preexec_fn=None, **variables) -> subprocess.Popen:
    """A study whose lines go to `stdout`."""
    return subprocess.Popen(
        [*COMMAND, "--patches", *PATCHES, "--out", str(out)],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | variables,
        preexec_fn=preexec_fn,
    )


@pytest.mark.parametrize("kind", ["closed pipe", "full disk", "ASCII", "closed before"])
def test_command_finishes_its_work_whatever_becomes_of_its_output(tmp_path, kind):
    out = tmp_path / "scälé.csv"
    if kind == "closed pipe":
        process = start(out, subprocess.PIPE)
        process.stdout.close()
    elif kind == "full disk":
        with open("/dev/full", "w") as full:
            process = start(out, full)
    elif kind == "ASCII":
        process = start(out, subprocess.DEVNULL, PYTHONIOENCODING="ascii")
    else:
        process = start(out, None, preexec_fn=lambda: os.close(1))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors and b"Exception ignored" not in errors
    with open(out) as file:
        assert [row["patches"] for row in csv.DictReader(file)] == PATCHES


def test_errors_are_printed_without_control_characters(tmp_path):
    name = str(tmp_path / "\x1b[31mred\x07.png")
    process = subprocess.run(
        [sys.executable, "-m", "urgt_jax", "refine", name], cwd=ROOT, capture_output=True
    )
    assert process.returncode == 2 and b"?[31mred?.png" in process.stderr
    assert b"\x1b" not in process.stderr


def test_root_logger_unchanged_removes_only_the_handlers_of_others(monkeypatch):
    own = logging.NullHandler()
    monkeypatch.setattr(logging.root, "handlers", [own])
    with root_logger_unchanged():
        logging.root.addHandler(logging.StreamHandler())
    assert logging.root.handlers == [own]


@pytest.mark.slow
def test_public_names_leave_the_log_of_a_program_to_the_program():
    code = (
        "import logging, urgt_jax\n"
        "for name in urgt_jax.__all__:\n"
        "    getattr(urgt_jax, name)\n"
        "print(logging.root.handlers, logging.root.level)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output == "[] 30\n"
