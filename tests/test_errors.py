"""Exit statuses, and errors in one line."""

import subprocess
import sys

import pytest
from etils.epath import Path

from urgt_jax.errors import exit_status

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
