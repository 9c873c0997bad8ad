"""When checkpoints are saved: by steps and by minutes."""

from unittest.mock import Mock

import pytest

from urgt_jax.config_files import with_changes
from urgt_jax.training import loop
from urgt_jax.training.loop import SaveTimes


@pytest.fixture
def clock(monkeypatch) -> Mock:
    clock = Mock(return_value=0.0)
    monkeypatch.setattr(loop.time, "monotonic", clock)
    return clock


def _saves(config, clock, count: int, seconds: float) -> list[int]:
    """The steps after which a run saves whose steps take `seconds`."""
    times = SaveTimes(config)
    steps = []
    for step in range(1, count):
        clock.return_value += seconds
        if times.due(step):
            steps.append(step)
    return steps


def test_checkpoints_by_minutes_count_from_the_last_one(micro, clock):
    config = with_changes(micro, {"train.save_every": 10})
    assert _saves(config, clock, 31, 15.0) == [10, 20, 30]
    config = with_changes(config, {"train.save_minutes": 1.5})
    assert _saves(config, clock, 31, 15.0) == [6, 10, 16, 20, 26, 30]


def test_several_processes_follow_the_first_one_at_lines_of_the_log(micro, clock, monkeypatch):
    changes = {"train.save_every": 100, "train.log_every": 4, "train.save_minutes": 0.5}
    config = with_changes(micro, changes)
    monkeypatch.setattr(loop.jax, "process_count", Mock(return_value=2))
    asked = []

    def first_process_decides(condition: bool) -> bool:
        asked.append(condition)
        return len(asked) % 2 == 0

    monkeypatch.setattr(loop, "first_process_decides", first_process_decides)
    assert _saves(config, clock, 17, 1.0) == [8, 16]
    assert asked == [False] * 4
    asked.clear()
    config = with_changes(config, {"train.save_minutes": 0.0})
    assert _saves(config, clock, 17, 1.0) == [] and asked == []
