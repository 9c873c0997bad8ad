"""Names in train.trackers."""

import sys

import pytest
from helpers.tracker_server import HttpTracker

from urgt_jax.config import TRACKERS, Train
from urgt_jax.errors import UserError
from urgt_jax.training.trackers.protocol import BUILT_IN, find_tracker


def test_find_tracker_imports_a_class_by_its_path():
    assert find_tracker("helpers.tracker_server.HttpTracker") is HttpTracker


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helpers.no_module.Tracker", r"cannot import helpers.no_module .*PYTHONPATH"),
        ("helpers.tracker_server.Nothing", "tracker_server defines no class Nothing"),
        ("helpers.tracker_server.URL", "tracker_server defines no class URL"),
        ("helpers.tracker_server.TrackerServer", "has no write_scalars, write_images, close"),
    ],
)
def test_find_tracker_reports_what_is_wrong_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_tracker(name)
    assert str(caught.value).startswith(f"train.trackers {name}: ")


@pytest.mark.parametrize("name", TRACKERS)
def test_find_tracker_names_the_extra_that_is_missing(name, monkeypatch):
    monkeypatch.setitem(sys.modules, BUILT_IN[name].package, None)
    with pytest.raises(UserError, match=rf'pip install "urgt-jax\[{name}\]"'):
        find_tracker(name)


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        (("tensorbord",), "tensorbord is unknown. Choose from tensorboard, wandb, trackio, or"),
        (("wandb", "wandb"), "named twice"),
    ],
)
def test_config_rejects_trackers(trackers, message):
    with pytest.raises(UserError, match=message):
        Train(trackers=trackers)
