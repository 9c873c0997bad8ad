"""What compiled programs move."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from urgt_jax.scaling import hlo_costs


def array_of(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


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

    compiled = jax.jit(run).lower(array_of(64, 16), array_of(3, 16, 16)).compile()
    return hlo_costs.Program(compiled.as_text())


def test_traffic_counts_collectives_as_often_as_their_loop_runs(program):
    traffic = program.traffic()
    weight = 16 * 16 * 4  # bytes
    rows = 8 * 16 * 4
    assert traffic["all-gather"] == hlo_costs.Traffic(3, 3 * weight * 7 / 8)
    assert traffic["all-reduce"] == hlo_costs.Traffic(1, 2 * 16 * 4 * 7 / 8)
    assert traffic["collective-permute"] == hlo_costs.Traffic(1, rows)
    assert traffic["all-to-all"] == hlo_costs.Traffic(1, rows * 7 / 8)
    assert traffic["reduce-scatter"] == hlo_costs.Traffic(1, rows * 7 / 8)


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


def test_traffic_counts_a_gather_in_pieces_once_and_sees_a_fused_reduce_scatter():
    traffic = hlo_costs.Program(TPU).traffic()
    assert traffic == {
        "all-gather": hlo_costs.Traffic(5, 5 * 16.0),
        "reduce-scatter": hlo_costs.Traffic(5, 40.0),
    }


def test_hbm_leaves_out_what_stays_in_a_cores_own_memory():
    # Each turn reads 16 bytes three times and writes 32 bytes twice; copies read 16 and 4 bytes.
    assert hlo_costs.Program(TPU).hbm() == 5 * (3 * 16 + 2 * 32 + 16 + 4)


def test_hbm_of_a_loop_reads_each_stacked_weight_once():
    def moved(turns: int) -> float:
        def run(x, stack):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

        compiled = jax.jit(run).lower(array_of(256, 256), array_of(turns, 256, 256)).compile()
        return hlo_costs.Program(compiled.as_text()).hbm()

    more = (moved(40) - moved(20)) / 20 / (256 * 256 * 4)
    assert 3 <= more <= 8  # x, a weight and the result, and copies of them


SLICES = """HloModule step, replica_count=1, num_partitions=4

ENTRY %main (x: f32[2,128]) -> f32[2,128] {
  %x = f32[2,128]{1,0:T(2,128)} parameter(0)
  %t = token[] after-all()
  %send = (f32[2,128]{1,0:T(2,128)}, u32[]{:S(2)}, token[]) send(%x, %t), channel_id=4, \
is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[2,128]{1,0:T(2,128)}, u32[]{:S(2)}, token[]) recv(%t), channel_id=3, \
is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv-done = (f32[2,128]{1,0:T(2,128)}, token[]) recv-done(%recv), channel_id=3
  ROOT %y = f32[2,128]{1,0:T(2,128)} get-tuple-element(%recv-done), index=0
}
"""


def test_between_slices_counts_what_is_sent_through_the_hosts():
    """Lines as libtpu 0.0.50.1 writes them for two slices."""
    program = hlo_costs.Program(SLICES)
    assert program.between_slices() == hlo_costs.Traffic(1, 2 * 128 * 4)
    assert program.traffic() == {}
    assert hlo_costs.Program(TPU).between_slices() == hlo_costs.Traffic(0, 0)
