"""TensorBoard's event files, beside another tracker and over a resume."""

import numpy as np
import pytest
from etils.epath import Path
from helpers.tracker_server import HttpTracker

from urgt_jax.training.trackers.delivery import open_trackers
from urgt_jax.training.trackers.protocol import find_tracker

package = pytest.importorskip("tensorboardX")
IMAGE = np.full((4, 6, 3), 200, np.uint8)


def _read_events(data: bytes) -> list[tuple[int, str, object]]:
    """Step, tag and value of everything in a file of length-prefixed events."""
    values = []
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 8], "little")
        event = package.proto.event_pb2.Event.FromString(data[start + 12 : start + 12 + size])
        for value in event.summary.value:
            values.append((event.step, value.tag, value))
        start += 16 + size
    return values


def test_event_files_hold_what_another_tracker_gets(micro, server, tmp_path):
    kinds = {"own": HttpTracker, "tensorboard": find_tracker("tensorboard")}
    trackers = open_trackers(kinds, micro, tmp_path, 0)
    for step in (2, 4):
        trackers.write_scalars(step, {"loss": 0.5 / step, "grad_norm": 3.0})
    trackers.write_images(4, {"depth": IMAGE})
    trackers.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = _read_events(file.read_bytes())
    points = {(step, tag): value.simple_value for step, tag, value in events}
    for post in server.of_kind("scalars"):
        for name, value in post["values"].items():
            assert points[post["step"], name] == value
    assert len(server.of_kind("scalars")) == 2
    (image,) = [value.image for _, tag, value in events if tag == "images/depth"]
    assert (image.height, image.width) == (4, 6)
    texts = " ".join(str(value.tensor) for _, _, value in events)
    assert "| data.scenes | 6 |" in texts and (tmp_path / "run_id").read_text() in texts


def test_event_files_of_a_run_in_a_store_are_uploaded(micro, store):
    workdir = Path("fake://bucket/run")
    trackers = open_trackers({"tensorboard": find_tracker("tensorboard")}, micro, workdir, 0)
    trackers.write_scalars(2, {"loss": 0.5})
    trackers.write_images(4, {"depth": IMAGE})
    trackers.close()
    (file,) = (workdir / "tensorboard").iterdir()
    tags = [tag for _, tag, _ in _read_events(file.read_bytes())]
    assert "loss" in tags and "images/depth" in tags
    assert len((workdir / "run_id").read_text()) == 8
