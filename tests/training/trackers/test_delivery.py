"""Several trackers at once; one that fails or hangs neither stops a run nor the others."""

import threading
import time

import numpy as np
import pytest
from helpers.tracker_server import HttpTracker

from urgt_jax.distributed import report_to
from urgt_jax.files import make_folder
from urgt_jax.training.trackers import delivery
from urgt_jax.training.trackers.delivery import Delivery, Trackers, open_trackers

IMAGE = np.full((4, 6, 3), 200, np.uint8)


def _log_three_steps(trackers: Trackers) -> None:
    for step in (1, 2, 3):
        trackers.write_scalars(step, {"loss": 0.5 * step})
    trackers.write_images(3, {"depth": IMAGE})
    trackers.close()


class Broken(HttpTracker):
    """A tracker of which one method fails."""

    method = ""

    def __init__(self, run):
        self._fail_in("__init__")

    def write_scalars(self, step, values):
        if step == 2:
            self._fail_in("write_scalars")

    def write_images(self, step, images):
        self._fail_in("write_images")

    def close(self):
        self._fail_in("close")

    def _fail_in(self, method: str) -> None:
        if method == self.method:
            raise SystemExit("no\nroute to host")


@pytest.mark.parametrize("method", ["__init__", "write_scalars", "write_images", "close"])
def test_failing_tracker_is_reported_once_and_the_other_gets_everything(
    run, server, monkeypatch, capsys, method
):
    monkeypatch.setattr(Broken, "method", method)
    _log_three_steps(Trackers([Delivery("bad", Broken, run), Delivery("own", HttpTracker, run)]))
    assert [post["step"] for post in server.of_kind("scalars")] == [1, 2, 3]
    assert server.of_kind("images")[0]["shapes"] == {"depth": [4, 6, 3]}
    assert len(server.of_kind("close")) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the tracker bad failed") and "(SystemExit: no route to host)" in line


def test_failing_tracker_is_reported_where_the_run_reports(run, monkeypatch, capsys):
    monkeypatch.setattr(Broken, "method", "__init__")
    lines = []
    with report_to(lines.append):
        _log_three_steps(Trackers([Delivery("bad", Broken, run)]))
    assert len(lines) == 1 and capsys.readouterr().out == ""


class Hanging(Broken):
    released = threading.Event()

    def write_scalars(self, step, values):
        self.released.wait(60)


def test_hanging_tracker_delays_neither_the_run_nor_its_end(run, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "CLOSE_SECONDS", 0.1)
    start = time.monotonic()
    _log_three_steps(Trackers([Delivery("slow", Hanging, run)]))
    Hanging.released.set()
    assert time.monotonic() - start < 5
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the tracker slow failed") and "has not finished after 0.1 s" in line


def test_tracker_that_does_not_keep_up_is_given_up(run, monkeypatch, capsys):
    monkeypatch.setattr(delivery, "MAX_WAITING", 2)
    monkeypatch.setattr(Hanging, "released", threading.Event())
    _log_three_steps(Trackers([Delivery("slow", Hanging, run)]))
    Hanging.released.set()
    assert capsys.readouterr().out.count("2 entries are waiting for it") == 1


def test_open_trackers_keeps_the_id_of_a_run(micro, server, tmp_path):
    kinds = {"own": HttpTracker}
    for step in (0, 7):
        open_trackers(kinds, micro, make_folder(tmp_path / "run"), step).close()
    open_trackers(kinds, micro, make_folder(tmp_path / "other"), 0).close()
    first, resumed, other = server.of_kind("run")
    assert resumed == first | {"step": 7} and first["name"] == "run"
    assert other["id"] != first["id"]
    assert first["commit"].startswith(("commit", "installed"))
    assert server.of_kind("config")[0]["values"]["data.scenes"] == 6


def test_without_trackers_nothing_is_written(micro, tmp_path):
    open_trackers({}, micro, tmp_path, 0).close()
    assert list(tmp_path.iterdir()) == []
