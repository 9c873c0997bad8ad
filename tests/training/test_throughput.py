"""What a run tells of itself: rates, lost time, use of the chip, pictures."""

import time

import jax
import numpy as np
import pytest

from urgt_jax import hardware
from urgt_jax.models import flops
from urgt_jax.training import sharding
from urgt_jax.training.tensorboard import TensorBoardWriter, strips
from urgt_jax.training.throughput import Throughput, line


@pytest.fixture
def counted(micro):
    return Throughput(micro, sharding.make_mesh(micro))


def test_rates_and_lost_time_are_shares_of_what_has_passed(counted):
    with counted.losing("data"):
        time.sleep(0.06)
    time.sleep(0.03)
    counted.step(2, 4)
    counted.step(3, 1)
    read = counted.read()
    assert 20 < read["images_per_second"] < 5 / 0.09
    assert read["patches_per_second"] == pytest.approx(read["images_per_second"] * 11 / 5)
    assert 0.3 < read["lost_to_data"] < 0.07 / 0.09 and read["lost_to_saving"] == 0
    assert read["memory_gb"] > 0.1 and "utilisation" not in read  # no peak is known of a CPU
    assert counted.read()["images_per_second"] == 0


def test_utilisation_is_of_the_peak_of_all_devices(counted, micro):
    counted.chip, counted.devices = next(c for c in hardware.CHIPS if c.name == "v5e"), 16
    counted.since = time.monotonic() - 2.0
    counted.step(32, 4)
    wanted = 32 * flops.training(micro, 4).total / 2.0 / (16 * 197e12)
    assert counted.read()["utilisation"] == pytest.approx(wanted, rel=0.05)


def test_a_reading_is_one_line():
    values = {
        "images_per_second": 12.345, "patches_per_second": 197.5, "utilisation": 0.4123,
        "memory_gb": 12.3, "memory_limit_gb": 16.9, "lost_to_data": 0.02, "lost_to_compiling": 0.3,
        "lost_to_saving": 0.001,
    }  # fmt: skip
    assert line(values) == (
        "12.3 images/s 198 patches/s  41.2% of peak  12.3 of 16.9 GB  lost: data 2%, compiling 30%"
    )


def _maps():
    draws = np.random.default_rng(0)
    depth, normal = draws.random((6, 8), np.float32), draws.normal(size=(6, 8, 3))
    known = np.ones((6, 8), bool)
    known[0] = False
    return {
        "image": np.full((6, 8, 3), 7, np.uint8), "valid": known, "normal_valid": known,
        **{f"{side}_depth": depth for side in ("coarse", "refined", "true")},
        **{f"{side}_normal": normal.astype(np.float32) for side in ("coarse", "refined", "true")},
    }  # fmt: skip


def test_strips_hold_the_four_maps_and_grey_where_nothing_is_known():
    for strip in strips(_maps()).values():
        image, coarse, refined, true = np.split(strip, 4, 1)
        assert (image == 7).all() and (coarse == refined).all()
        assert (true[0] == 128).all() and (true[1:] == refined[1:]).all()


def test_numbers_and_pictures_are_in_the_event_file(tmp_path):
    writers = pytest.importorskip("tensorboardX")
    board = TensorBoardWriter(tmp_path, 0)
    board.numbers(3, {"loss": 0.5})
    board.pictures(3, _maps())
    board.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    values = _values(writers, file.read_bytes())
    assert values["loss"].simple_value == 0.5 and values["pictures/normal"].image.width == 32


def _values(writers, data: bytes) -> dict:
    """What a file of length-prefixed events holds, by tag."""
    found, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = writers.proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
        found |= {value.tag: value for value in event.summary.value}
        at += 16 + size
    return found


def test_a_board_without_its_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(Exception, match="pip install tensorboardX"):
        TensorBoardWriter(tmp_path, 0)
    assert TensorBoardWriter(tmp_path, 0, writes=False).file is None


def test_every_chip_is_found_by_its_own_name():
    for chip in hardware.CHIPS:
        for kind in chip.kinds:
            device = type("Device", (), {"device_kind": kind})
            assert hardware.chip_of(device).name == chip.name
    assert hardware.chip_of(jax.devices()[0]) is None
