"""Packed rows: attention and gradients of blocks in one row equal those of each block alone."""

from functools import cache

import jax
import numpy as np
import pytest

from urgt_jax.config import Model
from urgt_jax.data import gridmix
from urgt_jax.models import attention
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params, build_with_params

PAIRS = ("camera", "registers", "within_patch", "across_patches")  # parameters that attention uses


@cache
def _layers(model: Model):
    """(params, tokens, positions, owner) -> the layers that heads read."""

    def run(params, tokens, positions, owner=None):
        return build_with_params(model, params).attend(tokens, positions, owner=owner)

    return jax.jit(run)


@cache
def _gradients(model: Model):
    """(params, tokens, positions, weights, owner) -> gradients of the layers' weighted sum.

    They are those in the parameters of the pairs, and in the tokens.
    """

    def run(params, tokens, positions, weights, owner=None):
        pairs = {name: params[name] for name in PAIRS}

        def total(pairs, tokens):
            return (_layers(model)(params | pairs, tokens, positions, owner) * weights).sum()

        return jax.grad(total, (0, 1))(pairs, tokens)

    return jax.jit(run)


@pytest.fixture(scope="module")
def row(micro):
    """A row of blocks of two sides: parameters, tokens, positions, weights and owners."""
    model, rng = micro.model, np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    count = model.tokens[0] * model.tokens[1]
    positions = rng.uniform(1, 9, (1, 16, count, 2)).astype(np.float32)
    owner = gridmix.patch_owners([2, 1, 2, 1, 2, 1, 1])[None]
    kept = len(kept_blocks(model.dpt_layers))
    weights = draw(kept, 1, 16, tokens_per_patch(model), 2 * model.width)
    params = jax.tree.map(lambda x: 0.3 * draw(*x.shape), abstract_params(model))
    return params, draw(1, 16, count, model.width), positions, weights, owner


def test_attend_gives_a_packed_row_the_tokens_of_its_blocks_alone(micro, row):
    params, tokens, positions, _, owner = row
    run = _layers(micro.model)
    layers = run(params, tokens, positions, owner)
    for own in (owner[0] == number for number in range(owner.max() + 1)):
        _close(layers[:, :, own], run(params, tokens[:, own], positions[:, own]))


@pytest.mark.slow
def test_attend_gives_a_packed_row_the_gradients_of_its_blocks_alone(micro, row):
    params, tokens, positions, weights, owner = row
    run = _gradients(micro.model)
    of_params, of_tokens = run(params, tokens, positions, weights, owner)
    sums = jax.tree.map(np.zeros_like, of_params)
    for own in (owner[0] == number for number in range(owner.max() + 1)):
        found = run(params, tokens[:, own], positions[:, own], weights[:, :, own])
        _close(of_tokens[:, own], found[1])
        sums = jax.tree.map(np.add, sums, found[0])
    jax.tree.map(_close, of_params, sums)


def _close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1))


def test_attend_sees_nothing_of_another_owner(micro, row):
    params, tokens, positions, _, owner = row
    own = owner[0] == 2
    other = np.where(own[:, None, None], tokens, tokens[:, ::-1] + 1).astype(np.float32)
    before, after = (_layers(micro.model)(params, x, positions, owner) for x in (tokens, other))
    np.testing.assert_array_equal(before[:, :, own], after[:, :, own])
    assert (np.abs(before - after)[:, :, ~own].max((0, 1, 3, 4)) > 1e-3).all()


@pytest.mark.slow
def test_attend_passes_no_gradient_to_another_owner(micro, row):
    params, tokens, positions, weights, owner = row
    own = owner[0] == 2
    _, found = _gradients(micro.model)(
        params, tokens, positions, weights * own[:, None, None], owner
    )
    assert (np.asarray(found)[:, ~own] == 0).all()
    assert (np.abs(found)[:, own].max((2, 3)) > 0).all()


@pytest.mark.parametrize("kernel", ["DENSE", "BLOCKWISE", "BLOCKWISE_BY_HEAD", "SPLASH"])
def test_every_attention_kernel_keeps_owners_apart(monkeypatch, kernel):
    monkeypatch.setattr(attention, "QUERY_CHUNK", 64)
    monkeypatch.setattr(attention, "SPLASH_BLOCKS", (128,))
    monkeypatch.setattr(attention, "INTERPRET_SPLASH", True)
    monkeypatch.setattr(attention, "MAX_FUSED_BLOCKS", 0)
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
def test_kernel_name_avoids_cudnn_for_packed_rows(monkeypatch, platform):
    monkeypatch.setattr(attention, "_has_cudnn_attention", lambda: True)
    name = attention.kernel_name(platform, "bfloat16", 64, 16 * 1374, packed=True)
    assert name == {"cpu": "blockwise", "tpu": "splash", "cuda": "blockwise"}[platform]
