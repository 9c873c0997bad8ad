"""Goodput over several starts of a run, one of which was killed."""

import json
from unittest.mock import Mock

import pytest
from etils.epath import Path

from urgt_jax.training import goodput
from urgt_jax.training.goodput import FILE, Goodput
from urgt_jax.training.throughput import WAITS, Throughput


@pytest.fixture
def clock(monkeypatch) -> Mock:
    """A clock that stands still unless it is set."""
    clock = Mock(return_value=0.0)
    monkeypatch.setattr(goodput.time, "monotonic", clock)
    return clock


def _start(workdir, clock, step: int) -> Goodput:
    """A start of a run that needs 10 seconds until its first step."""
    waits = Mock(spec=Throughput, total_waits=dict.fromkeys(WAITS, 0.0))
    account = Goodput(workdir, waits)
    clock.return_value += 10
    account.start(step)
    return account


def _train(account: Goodput, clock, seconds: float, first: int, last: int) -> None:
    clock.return_value += seconds
    for step in range(first, last + 1):
        account.add_step(step)


def test_goodput_sums_up_all_starts(tmp_path, clock):
    killed = _start(tmp_path, clock, 0)
    _train(killed, clock, 60, 1, 60)
    killed.throughput.total_waits |= {"compilation": 20.0, "checkpoint": 2.0}
    killed.record()
    _train(killed, clock, 5, 61, 65)  # in no record

    second = _start(tmp_path, clock, 40)  # from the last checkpoint
    _train(second, clock, 80, 41, 100)
    second.throughput.total_waits["data"] = 3.0
    second.record()

    third = _start(tmp_path, clock, 100)  # stopped, and so without lost steps
    _train(third, clock, 20, 101, 120)
    assert third.totals() == {
        "starts": 3,
        "steps": 60 + 60 + 20,
        "lost_steps": 20,
        "seconds": 30 + 60 + 80 + 20,
        "startup_seconds": 30,
        "compilation_seconds": 20,
        "checkpoint_seconds": 2,
        "data_seconds": 3,
        "images_seconds": 0,
        "last_step": 120,
    }
    # 135 s of steps, of which 20 of 140 were repeated: (135 - 19.3) / 190.
    first, second = third.summary()
    assert first == "goodput: 61% of 3:10; restarts: 2; steps lost and repeated: 20 of 140"
    assert second == (
        "the rest: startup 0:30, data 0:03, compilation 0:20, checkpoint 0:02, images 0:00, "
        "repeated steps 0:19"
    )


def test_records_at_lines_of_the_log_are_some_seconds_apart(tmp_path, clock):
    account = _start(tmp_path, clock, 0)
    for expected in (0, 0, 3, 3):
        _train(account, clock, 4, account.step + 1, account.step + 1)
        account.record(goodput.PAUSE)
        assert json.loads((tmp_path / FILE).read_text())["last_step"] == expected


@pytest.mark.parametrize("content", [b"", b"{}", b'{"starts": 1, "checksum": "0"}', b"\xff"])
def test_damaged_file_is_reported_and_written_anew(tmp_path, clock, capsys, content):
    (tmp_path / FILE).write_bytes(content)
    account = _start(tmp_path, clock, 7)
    assert account.totals()["starts"] == 1
    assert "goodput.json cannot be read" in capsys.readouterr().out
    assert json.loads((tmp_path / FILE).read_text())["last_step"] == 7


def test_file_that_cannot_be_written_stops_nothing(tmp_path, clock):
    account = _start(tmp_path / "missing", clock, 0)
    _train(account, clock, 4, 1, 2)
    account.record()
    assert account.totals()["steps"] == 2


def test_other_processes_write_nothing(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(goodput, "is_first_process", Mock(return_value=False))
    _start(tmp_path, clock, 0).record()
    assert list(tmp_path.iterdir()) == []


def test_goodput_of_a_run_in_a_store(store, clock):
    workdir = Path("fake://bucket/run")
    _start(workdir, clock, 0)
    assert _start(workdir, clock, 0).totals()["starts"] == 2
