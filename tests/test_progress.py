"""Progress: durations, and lines that are neither too many nor missing."""

import pytest

from urgt_jax import progress
from urgt_jax.progress import Progress, format_duration


@pytest.mark.parametrize("seconds,text", [(0.0, "0:00"), (245.2, "4:05"), (3723.0, "1:02:03")])
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


def test_progress_prints_a_line_every_ten_seconds_and_the_last(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = Progress("images", 40)
    for done in range(1, 41):
        now = 4.0 * done
        bar.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "images 3/40, 2:28 left" and lines[-1] == "images 40/40, 0:00 left"
    assert len(lines) == 14


def test_progress_of_resumed_work_counts_only_its_own_pace(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    bar = Progress("images", 30, done=10)
    now = 5.0
    assert bar.left(20) == 5.0
