"""TensorBoard: strips of maps, event files, and a missing package."""

import sys

import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.training.tensorboard import TensorBoardWriter, draw_strips


@pytest.fixture
def maps() -> dict[str, np.ndarray]:
    """Equal coarse, refined and true maps; the true ones have no value in the first row."""
    rng = np.random.default_rng(0)
    depth = rng.random((6, 8), np.float32)
    normal = rng.normal(size=(6, 8, 3)).astype(np.float32)
    valid = np.ones((6, 8), bool)
    valid[0] = False
    maps = {
        "image": np.full((6, 8, 3), 7, np.uint8),
        "valid": valid,
        "normal_valid": valid,
    }
    for side in ("coarse", "refined", "true"):
        maps[f"{side}_depth"] = depth
        maps[f"{side}_normal"] = normal
    return maps


def test_strips_hold_image_and_maps_with_grey_where_the_truth_is_not_known(maps):
    strips = draw_strips(maps)
    assert list(strips) == ["depth", "normal"]
    for strip in strips.values():
        image, coarse, refined, true = np.split(strip, 4, axis=1)
        assert (image == 7).all() and (coarse == refined).all()
        assert (true[0] == 128).all() and (true[1:] == refined[1:]).all()


def test_strips_without_any_valid_depth_are_grey(maps):
    maps["valid"] = maps["valid"] & False
    true = np.split(draw_strips(maps)["depth"], 4, axis=1)[3]
    assert (true == 128).all()


def test_event_file_holds_scalars_and_images(maps, tmp_path):
    package = pytest.importorskip("tensorboardX")
    writer = TensorBoardWriter(tmp_path, 0)
    writer.write_scalars(3, {"loss": 0.5})
    writer.write_maps(3, maps)
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    values = _read_events(package, file.read_bytes())
    assert values["loss"].simple_value == 0.5 and values["images/normal"].image.width == 32


def _read_events(package, data: bytes) -> dict:
    """The values of a file of length-prefixed events, by tag."""
    values = {}
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 8], "little")
        event = package.proto.event_pb2.Event.FromString(data[start + 12 : start + 12 + size])
        for value in event.summary.value:
            values[value.tag] = value
        start += 16 + size
    return values


def test_missing_package_is_an_error_only_where_something_is_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        TensorBoardWriter(tmp_path, 0)
    TensorBoardWriter(tmp_path, 0, writes=False).write_scalars(1, {"loss": 0.5})
