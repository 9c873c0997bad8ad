"""Plans of training steps on TPU slices."""

import importlib.util
from dataclasses import replace

import jax
import pytest

from urgt_jax import hardware
from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.scaling import hlo_costs, tpu_plan

GIB = hardware.GIB


@pytest.fixture
def made(micro):
    """A plan of one image on each of 4 chips."""
    config = with_changes(micro, {"mesh.data": 0, "data.batch": 4, "model.dtype": "bfloat16"})
    chip = hardware.Chip("c", (), 100, 70, 50, 16 * GIB, 10, 1)
    return tpu_plan.StepPlan(
        "v5e:2x2", chip, config, {"data": 4, "fsdp": 1, "patch": 1}, 4,
        tpu_plan.DeviceMemory(1 * GIB, 2 * GIB, 1 * GIB, 5 * GIB), 150, 200,
        {"all-gather": hlo_costs.Traffic(2, 1.5), "all-reduce": hlo_costs.Traffic(1, 1.5)},
        hlo_costs.Traffic(0, 0), 10, 7.0,
    )  # fmt: skip


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)


def test_step_is_bounded_by_the_slowest_of_three(made):
    assert made.seconds == {"compute": 2, "memory": 1, "communication": 3}
    assert made.step == 3 and made.utilization == 0.5 and made.batch == 4
    slower = replace(made, config=with_changes(made.config, {"model.dtype": "float32"}))
    assert slower.step == 4 and slower.utilization == 0.75


def test_network_between_slices_bounds_a_step_where_its_speed_is_published(made):
    slices = replace(made, between_slices=hlo_costs.Traffic(4, 8.0))
    assert slices.step == 3 and "between slices" not in slices.seconds
    assert "| between slices, 4 times | 8e-09 GB sent | not published |" in tpu_plan.section(
        slices, ""
    )
    known = replace(slices, chip=replace(made.chip, slice_network=2.0))
    assert known.step == 4 and "8e-09 GB sent | 4 |" in tpu_plan.section(known, "")
    assert known.chip.cut(2).slice_network == 1 and made.chip.cut(2).slice_network is None


def test_section_has_memory_times_and_the_command(made):
    text = tpu_plan.section(made, "python -m this")
    assert (
        "    python -m this\n" in text
        and "| Peak, of 15.75 GiB that a program can use | 5 |" in text
    )
    assert "at least 3 s: at most 1.33 images/s and 50% of the peak" in text
    assert "| all-gather, 2 times | 1.5e-09 GB sent | 1.5 |" in text


@pytest.mark.parametrize("base,growth,fits", [(2, 1, 13), (2, 4, 3), (2, 13, 1), (2, 14, None)])
@pytest.mark.parametrize("extra", [0, 3])
def test_largest_finds_the_largest_batch_that_fits(made, monkeypatch, base, growth, fits, extra):
    """Also where memory grows by more than the first two sizes tell."""
    usable = 15.75

    def compiled(topology, config, side, slices):
        count = config.data.batch // 4
        peak = base + growth * count + extra * (count > 2)
        if peak > usable:
            raise tpu_plan.DoesNotFit("they", peak * GIB, usable * GIB)
        memory = replace(made.memory, peak=peak * GIB)
        return replace(made, config=config, memory=memory)

    monkeypatch.setattr(tpu_plan, "plan", compiled)
    monkeypatch.setattr(tpu_plan, "devices_of", lambda topology, slices: jax.devices()[:4])
    if fits is None:
        with pytest.raises(tpu_plan.DoesNotFit, match=r"need 16.00 GiB of HBM and has 15.75"):
            tpu_plan.largest("v5e:2x2", made.config, 4)
        return
    found = tpu_plan.largest("v5e:2x2", made.config, 4)
    wanted = max([n for n in (1, 2) if base + growth * n <= usable] + [
        n for n in range(3, 20) if base + growth * n + extra <= usable
    ])  # fmt: skip
    assert found.batch == 4 * wanted and (extra or wanted == fits)


@pytest.mark.parametrize(
    "changes,unit",
    [
        ({}, 8),
        ({"mesh.patch": 4, "optim.accumulate": 3}, 6),
        ({"mesh.data": 3, "mesh.fsdp": 2}, 6),
        ({"data.batching": "patches"}, 72),
    ],
)
def test_least_batch_divides_among_devices_and_parts(micro, changes, unit):
    config = with_changes(micro, {"mesh.data": 0, **changes})
    assert tpu_plan.least_batch(config, jax.devices()) == unit


def test_devices_of_names_the_extra_without_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'urgt-jax\[tpu\]'"):
        tpu_plan.devices_of("v5e:2x2")


@pytest.mark.slow
@needs_compiler
def test_plan_of_a_tiny_model_fits_a_slice(micro):
    config = with_changes(micro, {"mesh.data": 0, "mesh.fsdp": 2, "model.dtype": "bfloat16"})
    made = tpu_plan.plan("v5e:2x2", config, 2)
    assert made.mesh == {"data": 2, "fsdp": 2, "patch": 1} and made.chip.name == "v5e"
    assert 0 < made.memory.work < made.memory.peak < 0.1 * made.chip.hbm
    assert {"all-gather", "all-reduce"} <= set(made.traffic)
    assert min(made.seconds.values()) > 0 and 0 < made.utilization < 1


@pytest.mark.slow
@needs_compiler
def test_plan_of_a_model_that_is_too_large_does_not_fit(micro):
    config = with_changes(micro, {"mesh.data": 0, "model.encoder.width": 8192})
    with pytest.raises(tpu_plan.DoesNotFit, match=r"8 images of 1 patches on v5e:2x2 .* has 15.75"):
        tpu_plan.plan("v5e:2x2", config, 1)
