"""Blocks of several images packed into one row: the same results as one by one, in one program."""

from functools import cache

import jax
import numpy as np
import pytest

from urgt_jax.config import Config, Model
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix, pipeline
from urgt_jax.errors import UserError
from urgt_jax.models import attention, flops
from urgt_jax.models.apply import apply
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params, build_with_params
from urgt_jax.scaling import tpu_plan
from urgt_jax.training import losses, sharding
from urgt_jax.training.loop import StepWatch
from urgt_jax.training.step import StepVerdict, initial_state, train_step

PAIRS = ("camera", "registers", "within_patch", "across_patches")  # parameters that attention uses
PAPER = (0.1, 0.2, 0.3, 0.4)
ONE, FOUR = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def packed(micro) -> Config:
    """Two rows a step; one head is quicker to compile than two."""
    return with_changes(
        micro, {"data.batching": "packed", "data.batch": 2, "model.outputs": ("depth",)}
    )


def _mixed(config: Config) -> tuple[int, list[int]]:
    """The first step that has blocks of three sides at least in its first row, and those."""
    rows = ((k, gridmix.row_sides(config, k, 0)) for k in range(99))
    return next((k, sides) for k, sides in rows if len(set(sides)) >= 3)


@pytest.mark.parametrize("mix", [PAPER, (0, 0.5, 0, 0.5), (0, 0, 1, 0), (1, 0, 0, 0)])
def test_rows_are_full_and_have_as_many_blocks_of_each_side_as_is_told(packed, mix):
    config = with_changes(packed, {"data.mix": mix})
    rows = [gridmix.row_sides(config, k, row) for k in range(250) for row in range(2)]
    assert {sum(m * m for m in sides) for sides in rows} == {16}
    found = np.mean([np.bincount(sides, minlength=5)[1:] for sides in rows], 0)
    np.testing.assert_allclose(found, gridmix.mean_blocks_per_row(mix), atol=0.3)
    assert gridmix.mean_blocks_per_row(mix) @ [1, 4, 9, 16] == pytest.approx(16)


def test_the_first_block_of_a_row_follows_the_mix_and_the_others_what_fits():
    np.testing.assert_allclose(gridmix.mix_that_fits(PAPER, 16), PAPER)
    np.testing.assert_allclose(gridmix.mix_that_fits(PAPER, 7), [1 / 3, 2 / 3, 0, 0])
    assert gridmix.mix_that_fits((0, 0, 1, 0), 7).tolist() == [0, 1, 0, 0]
    shares = gridmix.mean_blocks_per_row(PAPER) * [1, 4, 9, 16] / 16
    np.testing.assert_allclose(shares, [0.113, 0.204, 0.283, 0.4], atol=5e-4)


def test_a_packed_row_is_its_blocks_one_after_the_other(packed):
    k, sides = _mixed(packed)
    batches = pipeline.Batches(packed)
    batch = batches[k]
    assert batch["owner"].dtype == np.int32 and batch["owner"].shape == (2, 16)
    start, names = 0, iter(batches.drawn_images(k))
    for place, m in enumerate(sides):
        part = slice(start, start + m * m)
        (index,) = {next(names)[0] for _ in range(m * m)}
        rng = np.random.default_rng([packed.seed, 3, k, place])
        wanted = gridmix.draw_block(batches.source, index, packed, m, rng)
        for name in wanted:
            np.testing.assert_array_equal(batch[name][0, part], wanted[name], name)
        assert (batch["owner"][0, part] == place).all()
        start += m * m
    assert start == 16 and len(list(names)) == 16


def test_hosts_and_a_later_start_give_the_same_rows(packed):
    whole = pipeline.Batches(packed)[3]
    parts = [pipeline.Batches(packed, host, 2)[3] for host in range(2)]
    later = next(pipeline.batch_iterator(packed, start=3))
    for name, x in whole.items():
        np.testing.assert_array_equal(x, np.concatenate([part[name] for part in parts]), name)
        np.testing.assert_array_equal(x, later[name], name)


@cache
def _layers(model: Model):
    """(params, tokens, spots, owner) -> the layers that heads read."""

    def run(params, tokens, spots, owner=None):
        return build_with_params(model, params).attend(tokens, spots, owner=owner)

    return jax.jit(run)


@cache
def _gradients(model: Model):
    """(params, tokens, spots, weights, owner) -> gradients of the layers' weighted sum.

    They are those in the parameters of the pairs, and in the tokens.
    """

    def run(params, tokens, spots, weights, owner=None):
        pairs = {name: params[name] for name in PAIRS}

        def total(pairs, tokens):
            return (_layers(model)(params | pairs, tokens, spots, owner) * weights).sum()

        return jax.grad(total, (0, 1))(pairs, tokens)

    return jax.jit(run)


@pytest.fixture(scope="module")
def row(micro):
    """A row of blocks of two sides: parameters, tokens, spots, weights and owners."""
    model, rng = micro.model, np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    count = model.tokens[0] * model.tokens[1]
    spots = rng.uniform(1, 9, (1, 16, count, 2)).astype(np.float32)
    owner = gridmix.patch_owners([2, 1, 2, 1, 2, 1, 1])[None]
    kept = len(kept_blocks(model.dpt_layers))
    weights = draw(kept, 1, 16, tokens_per_patch(model), 2 * model.width)
    params = jax.tree.map(lambda x: 0.3 * draw(*x.shape), abstract_params(model))
    return params, draw(1, 16, count, model.width), spots, weights, owner


def test_a_packed_row_has_the_tokens_of_its_blocks_one_by_one(micro, row):
    params, tokens, spots, _, owner = row
    run = _layers(micro.model)
    layers = run(params, tokens, spots, owner)
    for own in (owner[0] == number for number in range(owner.max() + 1)):
        _close(layers[:, :, own], run(params, tokens[:, own], spots[:, own]))


@pytest.mark.slow
def test_a_packed_row_has_the_gradients_of_its_blocks_one_by_one(micro, row):
    params, tokens, spots, weights, owner = row
    run = _gradients(micro.model)
    of_params, of_tokens = run(params, tokens, spots, weights, owner)
    sums = jax.tree.map(np.zeros_like, of_params)
    for own in (owner[0] == number for number in range(owner.max() + 1)):
        found = run(params, tokens[:, own], spots[:, own], weights[:, :, own])
        _close(of_tokens[:, own], found[1])
        sums = jax.tree.map(np.add, sums, found[0])
    jax.tree.map(_close, of_params, sums)


def _close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1))


def test_nothing_is_seen_of_another_owner(micro, row):
    params, tokens, spots, _, owner = row
    own = owner[0] == 2
    other = np.where(own[:, None, None], tokens, tokens[:, ::-1] + 1).astype(np.float32)
    before, after = (_layers(micro.model)(params, x, spots, owner) for x in (tokens, other))
    np.testing.assert_array_equal(before[:, :, own], after[:, :, own])
    assert (np.abs(before - after)[:, :, ~own].max((0, 1, 3, 4)) > 1e-3).all()


@pytest.mark.slow
def test_no_gradient_crosses_from_one_owner_to_another(micro, row):
    params, tokens, spots, weights, owner = row
    own = owner[0] == 2
    _, found = _gradients(micro.model)(params, tokens, spots, weights * own[:, None, None], owner)
    assert (np.asarray(found)[:, ~own] == 0).all()
    assert (np.abs(found)[:, own].max((2, 3)) > 0).all()


@pytest.mark.parametrize("kernel", ["DENSE", "BY_CHUNK", "BY_HEAD", "SPLASH"])
def test_every_kernel_keeps_owners_apart(monkeypatch, kernel):
    for name, value in {"QUERY_CHUNK": 64, "BLOCKS": (128,), "INTERPRET": True, "FUSED": 0}.items():
        monkeypatch.setattr(attention, name, value)
    rng = np.random.default_rng(0)
    q, k, v, gradient = rng.standard_normal((4, 2, 150, 1, 64)).astype(np.float32)
    owner = np.stack([np.repeat([0, 1, 2], [40, 60, 50]), np.repeat([0, 1], [130, 20])])

    def all_four(q, k, v, gradient, owner):
        attend = getattr(attention, kernel).attend
        out, pull = jax.vjp(lambda *x: attend(*x, owner, owner), q, k, v)
        return out, *pull(gradient)

    found = jax.jit(all_four)(q, k, v, gradient, owner.astype(np.int32))
    wanted = _one_by_one(q, k, v, gradient, owner)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def _one_by_one(q, k, v, gradient, owner) -> list[np.ndarray]:
    """Attention of every owner's tokens and its gradients by the definition, in float64."""
    found = np.zeros((4, *q.shape))
    for b, number in {(row, n) for row, numbers in enumerate(owner) for n in numbers}:
        own = owner[b] == number
        a, c, d, g = (np.float64(x[b, own, 0]) for x in (q, k, v, gradient))
        share = np.exp(a @ c.T * a.shape[-1] ** -0.5)
        share /= share.sum(-1, keepdims=True)
        of_share = g @ d.T
        of_scores = share * (of_share - (of_share * share).sum(-1, keepdims=True))
        of_scores *= a.shape[-1] ** -0.5
        found[:, b, own, 0] = share @ d, of_scores @ c, of_scores.T @ a, share.T @ g
    return list(found)


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_cudnn_is_not_asked_for_packed_rows(monkeypatch, platform):
    monkeypatch.setattr(attention, "_cudnn_is_here", lambda: True)
    name = attention.kernel_name(platform, "bfloat16", 64, 16 * 1374, packed=True)
    assert name == {"cpu": "blockwise", "tpu": "splash", "cuda": "blockwise"}[platform]


def test_patches_of_packed_rows_cannot_be_shared_among_devices(packed):
    config = with_changes(packed, {"mesh.data": 1, "mesh.patch": 4})
    with pytest.raises(
        UserError, match="mesh.patch 4 does not go with data.batching packed.*--mesh"
    ):
        sharding.make_mesh(config)
    assert dict(sharding.make_mesh(with_changes(packed, {"mesh.data": 2})).shape)["data"] == 2


def test_a_plan_has_the_shapes_of_packed_batches_and_their_operations(packed):
    wanted = {n: (x.shape, x.dtype) for n, x in pipeline.Batches(packed)[0].items()}
    found = {n: (x.shape, x.dtype) for n, x in tpu_plan.abstract_batch(packed, 4).items()}
    assert found == wanted
    least, most = (tpu_plan.needed(with_changes(packed, {"data.mix": m}), 4) for m in (ONE, FOUR))
    assert least < tpu_plan.needed(packed, 4) < most
    assert most == 2 * flops.training(packed, 16).total


def test_the_pictures_that_spoil_a_packed_step_are_named_once(packed):
    batches = pipeline.Batches(packed)
    k, sides = _mixed(packed)
    far = np.zeros(32, np.float32)
    bad = slice(sides[0] ** 2, sides[0] ** 2 + sides[1] ** 2)  # the second block's patches
    far[bad] = np.nan
    (named,) = {f"{index} ({name})" for index, name in batches.drawn_images(k)[bad]}
    watch = StepWatch(packed, batches, skipped=0)
    watch.step(k, StepVerdict(np.False_, np.float32("nan"), far))
    with pytest.raises(UserError) as told:
        watch.read()
    assert f"without a finite result: {named}; steps left out" in str(told.value)


@pytest.mark.slow
def test_packed_steps_are_one_program_and_have_the_loss_of_their_images(packed):
    config = with_changes(packed, {"data.mix": (0.0, 1.0, 0.0, 0.0), "optim.accumulate": 2})
    mesh, batches = sharding.make_mesh(config), pipeline.Batches(config)
    run, state = train_step(config, mesh), initial_state(config, mesh)
    together = batches[0]
    params = jax.device_get(state.params)
    counts = losses.valid_counts(config, together)
    apart = {n: x.reshape(8, 4, *x.shape[2:]) for n, x in together.items() if n != "owner"}

    def of_images(params, batch):
        maps = apply(params, config.model, batch)
        terms = losses.compute_terms(config, maps, batch, counts)
        return terms, losses.image_errors(config, maps, batch)

    terms, far = jax.jit(of_images)(params, apart)
    state, metrics, verdict = run(state, sharding.put_on_mesh(together, mesh))
    for name, value in terms.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)
    each = np.asarray(verdict.far).reshape(8, 4)
    assert (each.min(1) <= far * 1.001).all() and (far <= each.max(1) * 1.001).all()
    compiled = run._cache_size()
    for k in range(1, 3):  # whatever their blocks are
        batch = pipeline.Batches(packed)[k]
        state, *_ = run(state, sharding.put_on_mesh(batch, mesh))
    assert run._cache_size() == compiled
