"""Hardware: chips by JAX's names of devices, and memory."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from etils.epath import Path

from urgt_jax import hardware
from urgt_jax.config import Prior
from urgt_jax.data.scenes.export import write_scene

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "kind,name,devices",
    [
        ("TPU v5 lite", "v5e", 1),
        ("TPU v5", "v5p", 1),
        ("TPU v5p", "v5p", 1),
        ("TPU v6 lite", "v6e", 1),
        ("TPU v3", "v3", 2),
        ("TPU7x", "tpu7x", 2),
        ("NVIDIA H100 80GB HBM3", "H100", 1),
    ],
)
def test_chip_of_returns_the_share_of_one_device(kind, name, devices):
    part = hardware.chip_of(SimpleNamespace(device_kind=kind))
    chip = next(chip for chip in hardware.CHIPS if chip.name == name)
    assert part.name == name and part.devices == 1
    assert part.bfloat16 * devices == chip.bfloat16 and part.hbm * devices == chip.hbm


def test_chip_of_divides_by_the_devices_per_chip_if_they_are_known():
    half = hardware.chip_of(SimpleNamespace(device_kind="TPU v4"), 2)
    assert half.peak("bfloat16") == 275e12 / 2


def test_chip_of_a_cpu_is_not_known():
    assert hardware.chip_of(jax.devices("cpu")[0]) is None


@pytest.mark.parametrize("command", [["refine", "scene0.png"], ["scale", "--patches", "1"]])
def test_unknown_platform_is_one_line(tmp_path, command):
    write_scene(tmp_path, "scene0", 0, "test", (64, 96), Prior())
    process = subprocess.run(
        [sys.executable, "-m", "urgt_jax", *command],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "nonsense", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    words = process.stdout + process.stderr
    assert "JAX has no device for JAX_PLATFORMS=nonsense: " in words and "Traceback" not in words


def test_free_memory_is_read_from_the_system_or_half_of_all(monkeypatch, tmp_path):
    file = tmp_path / "meminfo"
    monkeypatch.setattr(hardware, "Path", lambda _: file)
    assert hardware.free_memory() == hardware.total_memory() // 2
    file.write_text("MemTotal: 9 kB\nMemAvailable:   1234 kB\n")
    assert hardware.free_memory() == 1234 * 1024
