"""Plans: what compiled programs move, the shapes that are compiled for, what fits."""

import importlib.util
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from urgt_jax import hardware
from urgt_jax.commands import plan
from urgt_jax.config_files import with_changes
from urgt_jax.data.gridmix import block_side
from urgt_jax.data.pipeline import Batches
from urgt_jax.errors import UserError
from urgt_jax.models import flops
from urgt_jax.scaling import hlo_costs, tpu_plan

GIB = hardware.GIB


@pytest.fixture(scope="module")
def program():
    """Three turns that gather a weight of 16 x 16 each, and one collective of every other kind."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def turn(x, w):
        return jnp.tanh(x @ jax.lax.all_gather(w, "d", tiled=True)), None

    @partial(jax.shard_map, mesh=mesh, in_specs=(P("d"), P(None, "d")), out_specs=P("d"))
    def run(x, w):
        x, _ = jax.lax.scan(turn, x, w)
        x = x * jax.lax.psum(x.sum(0), "d")
        x = jax.lax.ppermute(x, "d", [(i, (i + 1) % 8) for i in range(8)])
        x = jax.lax.all_to_all(x, "d", 0, 0)
        return jax.lax.psum_scatter(x, "d", tiled=True)

    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    compiled = jax.jit(run).lower(of(64, 16), of(3, 16, 16)).compile()
    return hlo_costs.Program(compiled.as_text())


def test_collectives_count_as_often_as_their_loop_turns(program):
    found = program.traffic()
    weight, rows = 16 * 16 * 4, 8 * 16 * 4
    assert found["all-gather"] == hlo_costs.Traffic(3, 3 * weight * 7 / 8)
    assert found["all-reduce"] == hlo_costs.Traffic(1, 2 * 16 * 4 * 7 / 8)
    assert found["collective-permute"] == hlo_costs.Traffic(1, rows)
    assert found["all-to-all"] == hlo_costs.Traffic(1, rows * 7 / 8)
    assert found["reduce-scatter"] == hlo_costs.Traffic(1, rows * 7 / 8)


TPU = """HloModule step, replica_count=1, num_partitions=4

%condition (p.1: (s32[], bf16[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(5)
  %p.1 = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%begin (q: bf16[8]) -> bf16[16] {
  %q = bf16[8]{0:T(128)} parameter(0)
  ROOT %g.1 = bf16[16]{0:T(128)} all-gather(%q), channel_id=7, replica_groups=mesh['a'=2,'b'=2], \
device_ids=([2,2]T(1,0)) {'b'}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%end (r: bf16[8]) -> bf16[16] {
  %r = bf16[8]{0:T(128)} parameter(0)
  ROOT %g.2 = bf16[16]{0:T(128)} all-gather(%r), channel_id=7, replica_groups=mesh['a'=2,'b'=2], \
device_ids=([2,2]T(1,0)) {'b'}, dimensions={0}, frontend_attributes={chain_id="3"}
}

%all-reduce-scatter.1 (s: bf16[8]) -> bf16[4] {
  %s = bf16[8]{0:T(128)} parameter(0)
  %all = bf16[8]{0:T(128)} all-reduce(%s), channel_id=1, replica_groups={{0,1},{2,3}}
  ROOT %part = bf16[4]{0:T(128)} dynamic-slice(%all), dynamic_slice_sizes={4}
}

%body (p.2: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %p.2 = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = bf16[8]{0:T(128)} get-tuple-element(%p.2), index=1
  %f.1 = bf16[16]{0:T(128)} fusion(%x), kind=kCustom, calls=%begin
  %f.2 = bf16[16]{0:T(128)} fusion(%x), kind=kCustom, calls=%end
  %f.3 = bf16[4]{0:T(128)S(1)} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %c = (bf16[8]{0:T(128)S(1)}, bf16[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  %s = ((bf16[8]{0:T(128)}), bf16[2]{0:T(128)S(1)}, s32[]{:S(4)}) slice-start(%x), slice={[0:2]}
  ROOT %next = (s32[]{:T(128)}, bf16[8]{0}) tuple(%j, %x)
}

ENTRY %main (arg: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %arg = (s32[]{:T(128)}, bf16[8]{0}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, bf16[8]{0}) while(%arg), condition=%condition, body=%body
}
"""


def test_a_gather_in_pieces_counts_once_and_a_reduce_scatter_is_seen_in_its_fusion():
    found = hlo_costs.Program(TPU).traffic()
    assert found == {
        "all-gather": hlo_costs.Traffic(5, 5 * 16.0),
        "reduce-scatter": hlo_costs.Traffic(5, 40.0),
    }


def test_what_stays_in_a_cores_own_memory_does_not_count_as_hbm():
    # Each turn reads 16 bytes three times and writes 32 bytes twice; copies read 16 and 4 bytes.
    assert hlo_costs.Program(TPU).hbm() == 5 * (3 * 16 + 2 * 32 + 16 + 4)


def test_a_loop_over_stacked_weights_reads_each_of_them_once():
    def moved(turns: int) -> float:
        def run(x, stack):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

        of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
        compiled = jax.jit(run).lower(of(256, 256), of(turns, 256, 256)).compile()
        return hlo_costs.Program(compiled.as_text()).hbm()

    more = (moved(40) - moved(20)) / 20 / (256 * 256 * 4)
    assert 3 <= more <= 8  # x, a weight and the result, and copies of them


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.outputs": ("depth",), "data.batching": "patches"},
        {"loss.normal_target": "exact"},
    ],
)
def test_the_shapes_of_a_plan_are_those_of_a_batch(micro, changes):
    config = with_changes(micro, changes)
    batches = Batches(config)
    step = next(step for step in range(20) if block_side(config, step) == 2)
    wanted = {name: (x.shape, x.dtype) for name, x in batches[step].items()}
    found = {name: (x.shape, x.dtype) for name, x in tpu_plan.abstract_batch(config, 2).items()}
    assert found == wanted


@pytest.fixture
def made(micro):
    """A plan of one image on each of 4 chips."""
    config = with_changes(micro, {"mesh.data": 0, "data.batch": 4, "model.dtype": "bfloat16"})
    chip = hardware.Chip("c", (), 100, 50, 16 * GIB, 10, 1)
    return tpu_plan.StepPlan(
        "v5e:2x2", chip, config, {"data": 4, "fsdp": 1, "patch": 1}, 4,
        tpu_plan.DeviceMemory(1 * GIB, 2 * GIB, 1 * GIB, 5 * GIB), 150, 200,
        {"all-gather": hlo_costs.Traffic(2, 1.5), "all-reduce": hlo_costs.Traffic(1, 1.5)}, 10, 7.0,
    )  # fmt: skip


def test_the_slowest_of_three_bounds_a_step(made):
    assert made.seconds == {"compute": 2, "memory": 1, "communication": 3}
    assert made.step == 3 and made.utilization == 0.5 and made.batch == 4
    slower = replace(made, config=with_changes(made.config, {"model.dtype": "float32"}))
    assert slower.step == 4 and slower.utilization == 0.75


def test_a_section_tells_memory_times_and_the_command(made):
    told = tpu_plan.section(made, "python -m this")
    assert (
        "    python -m this\n" in told
        and "| Peak, of 15.75 GiB that a program can use | 5 |" in told
    )
    assert "at least 3 s: at most 1.33 images/s and 50% of the peak" in told
    assert "| all-gather, 2 times | 1.5e-09 GB sent | 1.5 |" in told


@pytest.mark.parametrize("base,growth,fits", [(2, 1, 13), (2, 4, 3), (2, 13, 1), (2, 14, None)])
@pytest.mark.parametrize("extra", [0, 3])
def test_the_largest_batch_is_found(made, monkeypatch, base, growth, fits, extra):
    """Also where memory grows by more than the first two sizes tell."""
    usable = 15.75

    def compiled(topology, config, side):
        count = config.data.batch // 4
        peak = base + growth * count + extra * (count > 2)
        if peak > usable:
            raise tpu_plan.DoesNotFit("they", peak * GIB, usable * GIB)
        memory = replace(made.memory, peak=peak * GIB)
        return replace(made, config=config, memory=memory)

    monkeypatch.setattr(tpu_plan, "plan", compiled)
    monkeypatch.setattr(tpu_plan, "devices_of", lambda topology: jax.devices()[:4])
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
def test_the_least_batch_divides_among_devices_and_parts(micro, changes, unit):
    config = with_changes(micro, {"mesh.data": 0, **changes})
    assert tpu_plan.least_batch(config, jax.devices()) == unit


@pytest.mark.parametrize(
    "options,told",
    [
        (["v9:2x2", "tiny"], "no TPU topology is called v9:2x2"),
        (["v5e", "tiny"], "name one like v5e:16x16"),
        (["v5e:2x2"], "required: CONFIG"),
        (["v5e:2x2", "tinny"], "did you mean tiny"),
    ],
)
def test_plan_rejects_what_cannot_be_planned(options, told):
    with pytest.raises(UserError, match=told):
        plan.main(options)


def test_without_the_compiler_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'urgt-jax\[tpu\]'"):
        tpu_plan.devices_of("v5e:2x2")


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu"
)


@pytest.mark.slow
@needs_compiler
def test_a_tiny_model_fits_a_slice(micro):
    config = with_changes(micro, {"mesh.data": 0, "mesh.fsdp": 2, "model.dtype": "bfloat16"})
    made = tpu_plan.plan("v5e:2x2", config, 2)
    assert made.mesh == {"data": 2, "fsdp": 2, "patch": 1} and made.chip.name == "v5e"
    assert 0 < made.memory.work < made.memory.peak < 0.1 * made.chip.hbm
    assert {"all-gather", "all-reduce"} <= set(made.traffic)
    assert min(made.seconds.values()) > 0 and 0 < made.utilization < 1


@pytest.mark.slow
@needs_compiler
def test_a_model_that_is_too_large_does_not_fit(micro):
    config = with_changes(micro, {"mesh.data": 0, "model.encoder.width": 8192})
    with pytest.raises(tpu_plan.DoesNotFit, match=r"8 images of 1 patches on v5e:2x2 .* has 15.75"):
        tpu_plan.plan("v5e:2x2", config, 1)


def test_abstract_batch_has_the_shapes_of_packed_batches(micro):
    packed = with_changes(micro, {"data.batching": "packed", "data.batch": 2})
    expected = {name: (x.shape, x.dtype) for name, x in Batches(packed)[0].items()}
    shapes = {name: (x.shape, x.dtype) for name, x in tpu_plan.abstract_batch(packed, 4).items()}
    assert shapes == expected


def test_needed_operations_of_packed_rows_are_those_of_their_mean_blocks(micro):
    packed = with_changes(micro, {"data.batching": "packed", "data.batch": 2})
    single = with_changes(packed, {"data.mix": (1.0, 0.0, 0.0, 0.0)})
    sixteen = with_changes(packed, {"data.mix": (0.0, 0.0, 0.0, 1.0)})
    most = tpu_plan.needed(sixteen, 4)
    assert tpu_plan.needed(single, 4) < tpu_plan.needed(packed, 4) < most
    assert most == 2 * flops.training(packed, 16).total
