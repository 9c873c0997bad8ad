"""Throughput: rates, time lost and model FLOPs utilisation."""

import time

import pytest

from urgt_jax import hardware
from urgt_jax.models import flops
from urgt_jax.training import sharding
from urgt_jax.training.throughput import Throughput


@pytest.fixture
def throughput(micro):
    return Throughput(micro, sharding.make_mesh(micro))


def test_read_returns_rates_and_shares_of_the_elapsed_time(throughput):
    with throughput.waiting_for("data"):
        time.sleep(0.06)
    time.sleep(0.03)
    throughput.count_images(2, 4)
    throughput.count_images(3, 1)
    values = throughput.read()
    assert 20 < values["images_per_second"] < 5 / 0.09
    ratio = values["patches_per_second"] / values["images_per_second"]
    assert ratio == pytest.approx(11 / 5)
    assert 0.3 < values["data_wait"] < 0.07 / 0.09 and values["checkpoint_wait"] == 0
    assert values["memory_gb"] > 0.1 and "mfu" not in values  # the peak of a CPU is not known
    assert throughput.read()["images_per_second"] == 0


def test_mfu_is_a_share_of_the_peak_of_all_devices(throughput, micro):
    throughput.chip = next(chip for chip in hardware.CHIPS if chip.name == "v5e")
    throughput.device_count = 16
    throughput.start = time.monotonic() - 2.0
    throughput.count_images(32, 4)
    # Float32 takes six passes of bfloat16.
    expected = 32 * flops.training(micro, 4).total / 2.0 / (16 * 197e12 / 6)
    assert throughput.read()["mfu"] == pytest.approx(expected, rel=0.05)
