"""Fixtures of the tests of trackers."""

import pytest
from etils.epath import Path
from helpers.tracker_server import URL, TrackerServer

from urgt_jax.training.trackers.protocol import TrackedRun


@pytest.fixture
def server(monkeypatch):
    with TrackerServer() as server:
        monkeypatch.setenv(URL, server.url)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    return TrackedRun("cafe0123", "tiny", tmp_path, 0, {"optim.steps": 9}, "commit 0123456789ab")
