"""Meshes: what is cut how, that nothing changes by it, and what the devices tell each other."""

import dataclasses
import math
import re

import jax
import numpy as np
import optax
import pytest

from urgt_jax.config import Mesh
from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.training import sharding
from urgt_jax.training.optimizer import averaged_params
from urgt_jax.training.step import abstract_state, initial_state, state_shardings, train_step

P = jax.sharding.PartitionSpec


def _batch(config, m: int):
    """Eight images of m x m patches, all different."""
    rng = np.random.default_rng(m)
    shape = (8, m * m, *config.model.patch_size)
    draw = lambda *more: rng.random((*shape, *more), np.float32)  # noqa: E731
    camera = np.broadcast_to(np.array([40, 40, 20, 14], np.float32), (*shape[:2], 4))
    return {
        "image": (draw(3) * 255).astype(np.uint8), "coarse_depth": draw(), "coarse_normal": draw(3),
        "depth": 1 + draw(), "target": draw(), "valid": draw() < 0.9, "intrinsics": camera,
        "origins": rng.random((*shape[:2], 2), np.float32) * 6,
    }  # fmt: skip


def _after_a_step(config, m: int):
    """Metrics, and Adam's first moment, which is a tenth of the clipped gradient."""
    jax.clear_caches()  # compiled programs hold many small pieces of memory, which are limited
    mesh = sharding.make_mesh(config)
    state = initial_state(config, mesh)
    after, metrics, _ = train_step(config, mesh)(
        state, sharding.put_on_mesh(_batch(config, m), mesh)
    )
    return jax.device_get((metrics, optax.tree_utils.tree_get(after.opt_state, "mu")))


@pytest.fixture(scope="module")
def lean(micro):
    """One head is quicker to compile than two; both are in the slow tests."""
    return with_changes(micro, {"model.outputs": ("depth",), "mesh.data": 1})


@pytest.fixture(scope="module")
def plain(request):
    found = {}

    def of(config, m):
        key = config.model.outputs, m
        if key not in found:
            found[key] = _after_a_step(with_changes(config, {"mesh.data": 1}), m)
        return found[key]

    return of


def _agree(found, plain):
    (metrics, gradient), (wanted, wanted_gradient) = found, plain
    for name in wanted:
        np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    norm = lambda tree: math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    apart = jax.tree.map(lambda a, b: a - b, gradient, wanted_gradient)
    assert norm(apart) <= 1e-5 * norm(wanted_gradient)


@pytest.mark.parametrize(
    "m,axes",
    [
        pytest.param(3, (2, 2, 2), marks=pytest.mark.slow),
        pytest.param(3, (1, 1, 8), marks=pytest.mark.slow),  # more devices than heads
        pytest.param(1, (1, 2, 4), marks=pytest.mark.slow),  # one patch on 4 devices
        pytest.param(2, (1, 8, 1), marks=pytest.mark.slow),
        pytest.param(3, (4, 2, 1), marks=pytest.mark.slow),
        pytest.param(3, (2, 1, 4), marks=pytest.mark.slow),
        pytest.param(4, (1, 2, 4), marks=pytest.mark.slow),
        pytest.param(4, (2, 2, 2), marks=pytest.mark.slow),
        pytest.param(2, (1, 1, 8), marks=pytest.mark.slow),
    ],
)
def test_every_mesh_gives_the_results_of_one_device(lean, plain, m, axes):
    config = dataclasses.replace(lean, mesh=Mesh(*axes))
    _agree(_after_a_step(config, m), plain(lean, m))


@pytest.mark.slow
def test_both_heads_on_a_mesh_of_all_axes(micro, plain):
    _agree(_after_a_step(dataclasses.replace(micro, mesh=Mesh(2, 2, 2)), 3), plain(micro, 3))


@pytest.mark.parametrize(
    "changes",
    [
        # 9 patches on 2 devices and heads among them, in two parts, with all axes at once
        {
            "optim.accumulate": 2,
            "model.remat": "attention",
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "mesh.patch": 2,
        },
        pytest.param({"model.remat": "offload"}, marks=pytest.mark.slow),
        pytest.param({"optim.accumulate": 8}, marks=pytest.mark.slow),
    ],
)
def test_policies_of_memory_and_meshes_change_nothing(lean, plain, changes):
    _agree(_after_a_step(with_changes(lean, changes), 3), plain(lean, 3))


@pytest.mark.slow
def test_a_frozen_encoder_keeps_its_weights_and_the_average_follows_the_rest(lean):
    config = with_changes(lean, {"optim.encoder_lr_scale": 0.0, "optim.ema_decay": 0.75})
    mesh = sharding.make_mesh(config)
    state = initial_state(config, mesh)
    before = jax.device_get(state.params)
    after, *_ = train_step(config, mesh)(state, sharding.put_on_mesh(_batch(config, 1), mesh))
    new, average = jax.device_get((after.params, averaged_params(after.opt_state, after.params)))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, new)
    assert all(jax.tree.leaves(same["encoder"]["blocks"])) and same["encoder"]["cls"]
    # Embeddings of priors are new beside a pretrained encoder, and learn with the rest.
    assert not same["encoder"]["depth"]["proj"]["kernel"] and not same["across_patches"]["scale1"]
    moments = optax.tree_utils.tree_get(after.opt_state, "mu")["encoder"]["blocks"]
    assert not [x for x in jax.tree.leaves(moments) if isinstance(x, jax.Array)]
    jax.tree.map(
        lambda old, new, mean: np.testing.assert_allclose(mean, 0.75 * old + 0.25 * new, atol=1e-6),
        before, new, average,
    )  # fmt: skip


def test_the_table_of_rules(micro):
    """What is cut; all else is whole on every device."""
    table = sharding.rule_table(abstract_state(micro).params)
    cut = {name: tuple(spec) for name, spec in table.items() if spec != sharding.REPLICATED}
    block = {
        "attn/qkv/kernel": (None, "fsdp", None), "attn/proj/kernel": (None, None, "fsdp"),
        "mlp/fc1/kernel": (None, "fsdp", None), "mlp/fc2/kernel": (None, None, "fsdp"),
    }  # fmt: skip
    stacks = ("encoder/blocks", "within_patch", "across_patches")
    wanted = {f"{stack}/{name}": spec for stack in stacks for name, spec in block.items()}
    wanted |= {f"encoder/{x}/proj/kernel": (None, "fsdp") for x in ("image", "depth", "normal")}
    wanted |= {"encoder/positions": (None, None, "fsdp")}
    assert {n: s for n, s in cut.items() if "pyramid" not in n} == wanted
    head = {name.split("pyramid/")[1]: spec for name, spec in cut.items() if "depth_head" in name}
    assert head["projects/0/kernel"] == ("fsdp", None) and head["upsample4/kernel"] == (
        None,
        "fsdp",
    )
    assert head["halve/kernel"] == head["levels/2/kernel"] == (None, None, "fsdp")


def test_a_rule_that_nothing_falls_under_is_an_error(micro):
    rules = (("no_such_weight", P("fsdp")), *sharding.RULES)
    with pytest.raises(UserError, match="rules without a parameter: no_such_weight"):
        sharding.rule_table(abstract_state(micro).params, rules)


def test_parameters_and_moments_are_cut(micro):
    config = with_changes(micro, {"mesh.data": 1, "mesh.fsdp": 8})
    state, mesh = abstract_state(config), sharding.make_mesh(config)
    lies = state_shardings(config, mesh)
    for tree, where in ((state.params, lies.params), (state.opt_state, lies.opt_state)):
        pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True))
        whole = sum(x.size for x, _ in pairs)
        here = sum(math.prod(s.shard_shape(x.shape)) for x, s in pairs)
        assert here < 0.35 * whole  # this tiny model is half made of what is too small to be cut


def test_no_stack_of_blocks_is_gathered_at_once(lean):
    config = with_changes(lean, {"mesh.fsdp": 8, "model.encoder.depth": 2})
    state = abstract_state(config)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _batch(config, 1))
    lowered = train_step(config, sharding.make_mesh(config)).lower(state, batch)
    text = lowered.compile().as_text()
    gathered = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather", text)
    shapes = [tuple(map(int, found.split(","))) for found in gathered]
    stacks = (
        state.params["within_patch"],
        state.params["across_patches"],
        state.params["encoder"]["blocks"],
    )
    stacked = {x.shape for stack in stacks for x in jax.tree.leaves(stack) if x.ndim == 3}
    one = {shape[1:] for shape in stacked}
    assert not [shape for shape in shapes if shape in stacked]
    whole = {f"[{','.join(map(str, shape))}]" for shape in stacked}
    assert not [line for line in text.splitlines() if any(f"32{name}" in line for name in whole)]
    assert [shape for shape in shapes if shape[-2:] in one and math.prod(shape[:-2]) == 1]


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"mesh.data": 3, "mesh.fsdp": 4}, "mesh of data 3 x fsdp 4 x patch 1 does not fit 8"),
        ({"mesh.data": 0, "mesh.patch": 3}, "does not fit 8 devices"),
        ({"mesh.data": 8, "data.batch": 12}, "data.batch 12 does not divide"),
        ({"mesh.data": 4, "optim.accumulate": 4}, "4 parts"),
    ],
)
def test_meshes_that_are_refused(micro, changes, told):
    with pytest.raises(UserError, match=told):
        sharding.make_mesh(with_changes(micro, changes))
