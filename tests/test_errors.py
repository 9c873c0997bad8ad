"""Exit statuses, and errors in one line."""

import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.errors import (
    MAX_LINE,
    UserError,
    exit_status,
    one_line,
    print_error,
    printable,
    reason,
)

ROOT = Path(__file__).parents[1]


def test_exit_status_is_130_for_a_command_that_is_stopped(capsys):
    def stopped():
        raise KeyboardInterrupt

    assert exit_status(stopped) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    "script,arguments,message",
    [
        ("train.py", ["configs/tinny.py", "--workdir", "x"], "did you mean configs/tiny.py"),
        ("eval.py", ["--workdir", "nowhere"], "no weights at nowhere"),
    ],
)
def test_scripts_report_a_user_error_in_one_line_with_status_2(script, arguments, message):
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


HOSTILE = "a\x1b[2Jb\x9b31m\r\u202ec\udcff\x07\n\u2028d"  # clears the screen, turns text around


@pytest.mark.parametrize("clean", [printable, one_line])
def test_names_from_data_are_printed_without_control_characters(clean):
    assert clean(HOSTILE).isprintable()
    assert clean("Ärger 日本.png") == "Ärger 日本.png"


@pytest.mark.parametrize("error", [UserError(HOSTILE), OSError(5, HOSTILE, HOSTILE)])
def test_errors_that_name_data_are_printed_without_control_characters(capsys, error):
    def failing():
        raise error

    assert exit_status(failing) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: a?[2Jb") and line[:-1].isprintable()


def test_long_errors_lose_their_middle(capsys):
    def failing():
        raise UserError("first.png is damaged: " + "because " * 200 + "run urgt priors again")

    exit_status(failing)
    line = capsys.readouterr().err
    assert len(line) <= len("error: ") + MAX_LINE + 1 <= 300
    assert line.startswith("error: first.png is damaged: ")
    assert line.endswith("because run urgt priors again\n")


def test_reason_names_the_kind_of_an_unforeseen_error():
    assert reason(UserError("a.png\nis damaged")) == "a.png is damaged"
    assert reason(ZeroDivisionError("of a library")) == "ZeroDivisionError: of a library"


def test_errors_replace_an_unfinished_line_of_progress_on_a_terminal(monkeypatch, capsys):
    print_error("too dark")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    print_error("too dark")
    assert capsys.readouterr().err == "error: too dark\n\r\x1b[Kerror: too dark\n"
