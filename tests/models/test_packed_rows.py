"""Packed rows: a block of patches in a row with others is treated as it is alone."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.config import Model
from urgt_jax.data import gridmix
from urgt_jax.models import attention
from urgt_jax.models.layers import kept_blocks
from urgt_jax.models.refiner import tokens_per_patch
from urgt_jax.models.registry import abstract_params, build_with_params

# The parameters that `attend` uses.
ATTEND_PARAMS = ("camera", "registers", "within_patch", "across_patches")


@cache
def jit_attend(model: Model):
    """(params, tokens, positions, owner) -> the layers that the DPT heads read."""

    def attend(params, tokens, positions, owner=None):
        return build_with_params(model, params).attend(tokens, positions, owner=owner)

    return jax.jit(attend)


@cache
def jit_gradients(model: Model):
    """(params, tokens, positions, weights, owner) -> gradients of parameters and tokens.

    They are those of the layers' sum, weighted.
    """

    def loss(used, tokens, params, positions, weights, owner):
        layers = jit_attend(model)(params | used, tokens, positions, owner)
        return (layers * weights).sum()

    def gradients(params, tokens, positions, weights, owner=None):
        used = {name: params[name] for name in ATTEND_PARAMS}
        return jax.grad(loss, (0, 1))(used, tokens, params, positions, weights, owner)

    return jax.jit(gradients)


@pytest.fixture(scope="module")
def row(micro):
    """A row of blocks of two sides: parameters, tokens, positions, weights and owners."""
    model = micro.model
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    count = model.tokens[0] * model.tokens[1]
    positions = rng.uniform(1, 9, (1, 16, count, 2)).astype(np.float32)
    owner = gridmix.patch_owners([2, 1, 2, 1, 2, 1, 1])[None]
    kept = len(kept_blocks(model.dpt_layers))
    weights = draw(kept, 1, 16, tokens_per_patch(model), 2 * model.width)
    params = jax.tree.map(lambda x: 0.3 * draw(*x.shape), abstract_params(model))
    tokens = draw(1, 16, count, model.width)
    return params, tokens, positions, weights, owner


def patches_by_owner(owner: np.ndarray) -> list[np.ndarray]:
    """The patches [P] of each owner of a row, as masks."""
    return [owner[0] == number for number in range(owner.max() + 1)]


def assert_equal_up_to_rounding(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1))


def test_attend_gives_a_packed_row_the_tokens_of_its_blocks_alone(micro, row):
    params, tokens, positions, _, owner = row
    attend = jit_attend(micro.model)
    layers = attend(params, tokens, positions, owner)
    for own in patches_by_owner(owner):
        alone = attend(params, tokens[:, own], positions[:, own])
        assert_equal_up_to_rounding(layers[:, :, own], alone)


@pytest.mark.slow
def test_attend_gives_a_packed_row_the_gradients_of_its_blocks_alone(micro, row):
    params, tokens, positions, weights, owner = row
    gradients = jit_gradients(micro.model)
    params_gradient, tokens_gradient = gradients(params, tokens, positions, weights, owner)
    total = jax.tree.map(np.zeros_like, params_gradient)
    for own in patches_by_owner(owner):
        params_alone, tokens_alone = gradients(
            params, tokens[:, own], positions[:, own], weights[:, :, own]
        )
        assert_equal_up_to_rounding(tokens_gradient[:, own], tokens_alone)
        total = jax.tree.map(np.add, total, params_alone)
    jax.tree.map(assert_equal_up_to_rounding, params_gradient, total)


def test_attend_sees_nothing_of_another_owner(micro, row):
    params, tokens, positions, _, owner = row
    own = owner[0] == 2
    changed = np.where(own[:, None, None], tokens, tokens[:, ::-1] + 1).astype(np.float32)
    before = jit_attend(micro.model)(params, tokens, positions, owner)
    after = jit_attend(micro.model)(params, changed, positions, owner)
    np.testing.assert_array_equal(before[:, :, own], after[:, :, own])
    assert (np.abs(before - after)[:, :, ~own].max((0, 1, 3, 4)) > 1e-3).all()


@pytest.mark.slow
def test_attend_passes_no_gradient_to_another_owner(micro, row):
    params, tokens, positions, weights, owner = row
    own = owner[0] == 2
    own_weights = weights * own[:, None, None]
    _, gradient = jit_gradients(micro.model)(params, tokens, positions, own_weights, owner)
    assert (np.asarray(gradient)[:, ~own] == 0).all()
    assert (np.abs(gradient)[:, own].max((2, 3)) > 0).all()


@pytest.mark.parametrize("kernel", ["DENSE", "BLOCKWISE", "BLOCKWISE_BY_HEAD", "SPLASH"])
def test_every_attention_kernel_keeps_owners_apart(monkeypatch, kernel):
    monkeypatch.setattr(attention, "QUERY_CHUNK", 64)
    monkeypatch.setattr(attention, "SPLASH_BLOCKS", (128,))
    monkeypatch.setattr(attention, "INTERPRET_SPLASH", True)
    monkeypatch.setattr(attention, "MAX_FUSED_BLOCKS", 0)
    rng = np.random.default_rng(0)
    q, k, v, gradient = rng.standard_normal((4, 2, 150, 1, 64)).astype(np.float32)
    owner = np.stack([np.repeat([0, 1, 2], [40, 60, 50]), np.repeat([0, 1], [130, 20])])
    attend = getattr(attention, kernel).attend

    @jax.jit
    def run(q, k, v, gradient, owner):
        output, pull_back = jax.vjp(lambda q, k, v: attend(q, k, v, owner, owner), q, k, v)
        return output, *pull_back(gradient)

    arrays = run(q, k, v, gradient, jnp.asarray(owner, jnp.int32))
    wanted = attention_of_each_owner(q, k, v, gradient, owner)
    for array, want in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(array, want, atol=1e-5)


def attention_of_each_owner(q, k, v, gradient, owner) -> list[np.ndarray]:
    """Output and gradients of q, k and v by the definition, for each owner alone, in float64."""
    arrays = [np.zeros(q.shape) for _ in range(4)]
    scale = q.shape[-1] ** -0.5
    for row in range(len(owner)):
        for number in np.unique(owner[row]):
            own = owner[row] == number
            own_q, own_k, own_v, own_gradient = (
                np.float64(x[row, own, 0]) for x in (q, k, v, gradient)
            )
            weights = np.exp(own_q @ own_k.T * scale)
            weights /= weights.sum(-1, keepdims=True)
            weights_gradient = own_gradient @ own_v.T
            mean = (weights_gradient * weights).sum(-1, keepdims=True)
            scores_gradient = weights * (weights_gradient - mean) * scale
            arrays[0][row, own, 0] = weights @ own_v
            arrays[1][row, own, 0] = scores_gradient @ own_k
            arrays[2][row, own, 0] = scores_gradient.T @ own_q
            arrays[3][row, own, 0] = weights.T @ own_gradient
    return arrays


@pytest.mark.parametrize(
    "platform,name", [("cpu", "blockwise"), ("tpu", "splash"), ("cuda", "blockwise")]
)
def test_kernel_name_for_packed_rows_is_never_cudnn(monkeypatch, platform, name):
    monkeypatch.setattr(attention, "_has_cudnn_attention", lambda: True)
    assert attention.kernel_name(platform, "bfloat16", 64, 16 * 1374, packed=True) == name
