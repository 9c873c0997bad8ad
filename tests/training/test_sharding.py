"""Meshes: what is sharded how, equal results on every mesh, and what the devices communicate."""

import dataclasses
import math
import re

import jax
import numpy as np
import optax
import pytest

from urgt_jax.config import SIZES, Config, Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.training import sharding
from urgt_jax.training.optimizer import averaged_params
from urgt_jax.training.step import abstract_state, initial_state, state_shardings, train_step

P = jax.sharding.PartitionSpec


def _batch(config: Config, m: int) -> dict[str, np.ndarray]:
    """Eight images of m x m patches, all different."""
    rng = np.random.default_rng(m)
    shape = (8, m * m, *config.model.patch_size)

    def draw(*channels: int) -> np.ndarray:
        return rng.random((*shape, *channels), np.float32)

    return {
        "image": (draw(3) * 255).astype(np.uint8),
        "coarse_depth": draw(),
        "coarse_normal": draw(3),
        "depth": 1 + draw(),
        "target": draw(),
        "valid": draw() < 0.9,
        "intrinsics": np.broadcast_to(np.array([40, 40, 20, 14], np.float32), (*shape[:2], 4)),
        "origins": rng.random((*shape[:2], 2), np.float32) * 6,
    }


def _take_step(config: Config, m: int) -> tuple[dict, dict]:
    """Metrics of a step, and Adam's first moment, which is a tenth of the clipped gradient."""
    jax.clear_caches()  # compiled programs hold many small pieces of memory, which are limited
    mesh = sharding.make_mesh(config)
    state = initial_state(config, mesh)
    batch = sharding.put_on_mesh(_batch(config, m), mesh)
    state, metrics, _ = train_step(config, mesh)(state, batch)
    return jax.device_get((metrics, optax.tree_utils.tree_get(state.opt_state, "mu")))


@pytest.fixture(scope="module")
def depth_config(micro) -> Config:
    """One output is quicker to compile than two. A slow test has both."""
    return with_changes(micro, {"model.outputs": ("depth",), "mesh.data": 1})


@pytest.fixture(scope="module")
def on_one_device():
    """Results of steps on one device, each computed once."""
    results = {}

    def take_step(config: Config, m: int) -> tuple[dict, dict]:
        key = (config.model.outputs, m)
        if key not in results:
            results[key] = _take_step(with_changes(config, {"mesh.data": 1}), m)
        return results[key]

    return take_step


def _norm(tree: dict) -> float:
    return math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))


def _assert_same_step(result: tuple[dict, dict], expected: tuple[dict, dict]) -> None:
    metrics, gradient = result
    expected_metrics, expected_gradient = expected
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    difference = jax.tree.map(lambda a, b: a - b, gradient, expected_gradient)
    assert _norm(difference) <= 1e-5 * _norm(expected_gradient)


@pytest.mark.slow
@pytest.mark.parametrize(
    "m,axes",
    [
        (3, (2, 2, 2)),
        (3, (1, 1, 8)),  # more devices than heads
        (1, (1, 2, 4)),  # one patch on 4 devices
        (2, (1, 8, 1)),
        (3, (4, 2, 1)),
        (3, (2, 1, 4)),
        (4, (1, 2, 4)),
        (4, (2, 2, 2)),
        (2, (1, 1, 8)),
    ],
)
def test_every_mesh_takes_the_step_of_one_device(depth_config, on_one_device, m, axes):
    config = dataclasses.replace(depth_config, mesh=Mesh(*axes))
    _assert_same_step(_take_step(config, m), on_one_device(depth_config, m))


@pytest.mark.slow
def test_both_outputs_on_a_mesh_of_all_axes(micro, on_one_device):
    config = dataclasses.replace(micro, mesh=Mesh(2, 2, 2))
    _assert_same_step(_take_step(config, 3), on_one_device(micro, 3))


# 9 patches and 2 heads on 2 devices, in two parts, with all axes at once.
ALL_AXES = {
    "optim.accumulate": 2,
    "model.remat": "attention",
    "mesh.data": 2,
    "mesh.fsdp": 2,
    "mesh.patch": 2,
}


@pytest.mark.parametrize(
    "changes",
    [
        ALL_AXES,
        pytest.param({"model.remat": "offload"}, marks=pytest.mark.slow),
        pytest.param({"optim.accumulate": 8}, marks=pytest.mark.slow),
    ],
)
def test_mesh_remat_and_accumulation_do_not_change_a_step(depth_config, on_one_device, changes):
    config = with_changes(depth_config, changes)
    _assert_same_step(_take_step(config, 3), on_one_device(depth_config, 3))


@pytest.mark.slow
def test_frozen_encoder_keeps_its_weights_and_the_average_follows_the_rest(depth_config):
    changes = {"optim.encoder_lr_scale": 0.0, "optim.ema_decay": 0.75}
    config = with_changes(depth_config, changes)
    mesh = sharding.make_mesh(config)
    state = initial_state(config, mesh)
    before = jax.device_get(state.params)
    state, *_ = train_step(config, mesh)(state, sharding.put_on_mesh(_batch(config, 1), mesh))
    after = jax.device_get(state.params)
    average = jax.device_get(averaged_params(state.opt_state, state.params))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert all(jax.tree.leaves(same["encoder"]["blocks"])) and same["encoder"]["cls"]
    # Embeddings of priors are new beside a pretrained encoder, and learn with the rest.
    assert not same["encoder"]["depth"]["proj"]["kernel"] and not same["across_patches"]["scale1"]
    moments = optax.tree_utils.tree_get(state.opt_state, "mu")["encoder"]["blocks"]
    assert not [x for x in jax.tree.leaves(moments) if isinstance(x, jax.Array)]
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, expected)


@dataclasses.dataclass(frozen=True)
class SliceDevice:
    """A device of a TPU slice, as far as a mesh looks at it."""

    id: int
    slice_index: int
    process_index: int
    device_kind: str = "TPU v5 lite"
    platform: str = "tpu"


def _two_slices() -> list[SliceDevice]:
    """Two slices of 8 devices on 2 hosts each, in an order that mixes the slices."""
    return [SliceDevice(i, i % 2, i % 2 * 2 + i // 8) for i in range(16)]


def _slices(mesh: jax.sharding.Mesh) -> list[set[int]]:
    """The slices of the devices that share parameters or patches, for each place on data."""
    return [{device.slice_index for device in group.flat} for group in mesh.devices]


@pytest.mark.parametrize(
    "axes,expected",
    [
        ((0, 8, 1), [{0}, {1}]),
        ((0, 2, 2), [{0}, {0}, {1}, {1}]),
        ((0, 1, 8), [{0}, {1}]),
    ],
)
def test_make_mesh_puts_data_across_slices(micro, axes, expected):
    config = dataclasses.replace(with_changes(micro, {"data.batch": 16}), mesh=Mesh(*axes))
    mesh = sharding.make_mesh(config, _two_slices())
    assert _slices(mesh) == expected
    rows = mesh.devices.reshape(-1)
    for process in {device.process_index for device in rows}:
        own = [i for i, device in enumerate(rows) if device.process_index == process]
        assert own == list(range(own[0], own[0] + len(own)))  # as process_share needs it


@pytest.mark.parametrize("axes", [(0, 16, 1), (0, 1, 16), (0, 4, 4), (1, 16, 1)])
def test_make_mesh_keeps_other_axes_within_a_slice_unless_asked(micro, axes):
    config = dataclasses.replace(with_changes(micro, {"data.batch": 16}), mesh=Mesh(*axes))
    message = f"fsdp {axes[1]} x patch {axes[2]} spans slices of 8 devices.*--mesh.span_slices"
    with pytest.raises(UserError, match=message) as error:
        sharding.make_mesh(config, _two_slices())
    assert "\n" not in str(error.value)
    asked = with_changes(config, {"mesh.span_slices": True})
    assert _slices(sharding.make_mesh(asked, _two_slices())) == [{0, 1}]


def test_make_mesh_rejects_a_mesh_without_the_devices_of_some_process(micro):
    config = dataclasses.replace(micro, mesh=Mesh(1, 4, 2))
    with pytest.raises(UserError, match="leaves 2 of 4 processes without a device: start fewer"):
        sharding.make_mesh(config, _two_slices())


def test_default_fsdp_stays_within_a_slice(micro):
    large = dataclasses.replace(micro, model=SIZES["large"], mesh=Mesh())
    one_slice = [device for device in _two_slices() if device.slice_index == 0]
    assert sharding.make_mesh(large, one_slice).shape["fsdp"] == 8
    large = with_changes(large, {"data.batch": 16})
    assert dict(sharding.make_mesh(large, _two_slices()).shape) == {
        "data": 2,
        "fsdp": 8,
        "patch": 1,
    }


def test_rule_table_shards_large_matrices_and_replicates_the_rest(micro):
    table = sharding.rule_table(abstract_state(micro).params)
    sharded = {name: tuple(spec) for name, spec in table.items() if spec != sharding.REPLICATED}
    block = {
        "attn/qkv/kernel": (None, "fsdp", None),
        "attn/proj/kernel": (None, None, "fsdp"),
        "mlp/fc1/kernel": (None, "fsdp", None),
        "mlp/fc2/kernel": (None, None, "fsdp"),
    }
    expected = {
        "encoder/image/proj/kernel": (None, "fsdp"),
        "encoder/depth/proj/kernel": (None, "fsdp"),
        "encoder/normal/proj/kernel": (None, "fsdp"),
        "encoder/positions": (None, None, "fsdp"),
    }
    for stack in ("encoder/blocks", "within_patch", "across_patches"):
        for name, spec in block.items():
            expected[f"{stack}/{name}"] = spec
    assert {n: spec for n, spec in sharded.items() if "pyramid" not in n} == expected
    head = {
        name.split("pyramid/")[1]: spec for name, spec in sharded.items() if "depth_head" in name
    }
    assert head["projects/0/kernel"] == ("fsdp", None)
    assert head["upsample4/kernel"] == (None, "fsdp")
    assert head["halve/kernel"] == head["levels/2/kernel"] == (None, None, "fsdp")


def test_rule_table_rejects_a_rule_that_no_parameter_matches(micro):
    rules = (("no_such_weight", P("fsdp")), *sharding.RULES)
    with pytest.raises(UserError, match="rules that no parameter matches: no_such_weight"):
        sharding.rule_table(abstract_state(micro).params, rules)


def test_state_shardings_cut_parameters_and_moments(micro):
    config = with_changes(micro, {"mesh.data": 1, "mesh.fsdp": 8})
    state = abstract_state(config)
    layout = state_shardings(config, sharding.make_mesh(config))
    for tree, shardings in ((state.params, layout.params), (state.opt_state, layout.opt_state)):
        total = 0
        per_device = 0
        pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        for x, leaf_sharding in pairs:
            total += x.size
            per_device += math.prod(leaf_sharding.shard_shape(x.shape))
        assert per_device < 0.35 * total  # half of this tiny model is too small to be sharded


def test_compiled_step_gathers_one_block_at_a_time(depth_config):
    config = with_changes(depth_config, {"mesh.fsdp": 8, "model.encoder.depth": 2})
    state = abstract_state(config)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _batch(config, 1))
    lowered = train_step(config, sharding.make_mesh(config)).lower(state, batch)
    text = lowered.compile().as_text()
    gathered = []
    for sides in re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", text):
        gathered.append(tuple(int(side) for side in sides.split(",")))
    stacks = (
        state.params["within_patch"],
        state.params["across_patches"],
        state.params["encoder"]["blocks"],
    )
    stacked = {x.shape for stack in stacks for x in jax.tree.leaves(stack) if x.ndim == 3}
    single = {shape[1:] for shape in stacked}
    assert not [shape for shape in gathered if shape in stacked]
    whole = {f"[{','.join(map(str, shape))}]" for shape in stacked}
    assert not [line for line in text.splitlines() if any(f"32{name}" in line for name in whole)]
    assert [s for s in gathered if s[-2:] in single and math.prod(s[:-2]) == 1]


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"mesh.data": 3, "mesh.fsdp": 4}, "mesh of data 3 x fsdp 4 x patch 1 does not fit 8"),
        ({"mesh.data": 0, "mesh.patch": 3}, "does not fit 8 devices"),
        ({"mesh.data": 8, "data.batch": 12}, "data.batch 12 does not divide"),
        ({"mesh.data": 4, "optim.accumulate": 4}, "4 parts"),
    ],
)
def test_make_mesh_rejects(micro, changes, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(with_changes(micro, changes))
