"""The optimiser: schedule, groups of parameters, frozen encoder and moving average."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from urgt_jax.config import Optim
from urgt_jax.config_files import with_changes
from urgt_jax.errors import UserError
from urgt_jax.training.optimizer import (
    averaged_params,
    check_frozen,
    learning_rate_schedule,
    make_optimizer,
    param_groups,
    stop_frozen,
)

OPTIM = Optim(learning_rate=1e-2, steps=100, warmup=0.1, weight_decay=0.0)


@pytest.fixture
def params() -> dict:
    """One parameter of each kind: encoder, embedding of a coarse map, and the rest."""
    return {
        "encoder": {"blocks": jnp.ones((2, 2)), "depth": {"kernel": jnp.ones((2, 2))}},
        "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    }


def _step(config: Optim, params: dict) -> tuple[dict, optax.OptState]:
    """Parameters and state after one step on the sum of all parameters."""
    optimizer = make_optimizer(config)

    def loss(params: dict) -> jax.Array:
        trained = stop_frozen(config, params)
        return sum(x.sum() for x in jax.tree.leaves(trained))

    opt_state = optimizer.init(params)
    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def test_learning_rate_rises_to_its_highest_value_and_falls_to_a_hundredth():
    schedule = learning_rate_schedule(OPTIM)
    rates = np.array([schedule(step) for step in range(101)])
    assert rates.argmax() == 10 and rates[10] == pytest.approx(1e-2)
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    assert rates[100] == pytest.approx(1e-4)


def test_param_groups_count_embeddings_of_coarse_maps_as_new(params):
    assert param_groups(dataclasses.replace(OPTIM, encoder_lr_scale=0.5), params) == {
        "encoder": {"blocks": "encoder", "depth": {"kernel": "rest"}},
        "head": {"kernel": "rest", "bias": "rest"},
    }


def test_encoder_learns_at_its_own_rate(params):
    after, _ = _step(dataclasses.replace(OPTIM, encoder_lr_scale=0.25), params)
    encoder = params["encoder"]["blocks"] - after["encoder"]["blocks"]
    rest = params["head"]["kernel"] - after["head"]["kernel"]
    np.testing.assert_allclose(encoder, 0.25 * rest, rtol=1e-3)
    assert (rest > 0).all()


def test_frozen_encoder_keeps_its_weights_and_has_no_moments(params):
    after, opt_state = _step(dataclasses.replace(OPTIM, encoder_lr_scale=0.0), params)
    np.testing.assert_array_equal(after["encoder"]["blocks"], params["encoder"]["blocks"])
    assert (after["encoder"]["depth"]["kernel"] < params["encoder"]["depth"]["kernel"]).all()
    moments = optax.tree_utils.tree_get(opt_state, "mu")
    assert jax.tree.leaves(moments["encoder"]["blocks"]) == []
    assert len(jax.tree.leaves(moments)) == 3


def test_frozen_parameters_stay_and_have_no_state(params):
    config = dataclasses.replace(OPTIM, frozen=("^encoder/(?!depth/)", "bias$"), ema_decay=0.75)
    after, opt_state = _step(config, params)
    np.testing.assert_array_equal(after["encoder"]["blocks"], params["encoder"]["blocks"])
    np.testing.assert_array_equal(after["head"]["bias"], params["head"]["bias"])
    assert (after["encoder"]["depth"]["kernel"] < params["encoder"]["depth"]["kernel"]).all()
    assert (after["head"]["kernel"] < params["head"]["kernel"]).all()
    for name in ("mu", "nu", "average"):
        assert len(jax.tree.leaves(optax.tree_utils.tree_get(opt_state, name))) == 2
    average = averaged_params(opt_state, after)
    np.testing.assert_array_equal(average["head"]["bias"], params["head"]["bias"])
    expected = 0.25 * after["head"]["kernel"] + 0.75 * params["head"]["kernel"]
    np.testing.assert_allclose(average["head"]["kernel"], expected, rtol=1e-6)


def test_frozen_goes_with_an_encoder_that_has_its_own_rate(params):
    config = dataclasses.replace(OPTIM, frozen=("^head/",), encoder_lr_scale=0.25)
    after, _ = _step(config, params)
    np.testing.assert_array_equal(after["head"]["kernel"], params["head"]["kernel"])
    encoder = params["encoder"]["blocks"] - after["encoder"]["blocks"]
    rest = params["encoder"]["depth"]["kernel"] - after["encoder"]["depth"]["kernel"]
    np.testing.assert_allclose(encoder, 0.25 * rest, rtol=1e-3)


@pytest.mark.parametrize(
    "frozen,message",
    [
        (("^encoder/", "^decoder/"), r"optim.frozen '\^decoder/' matches no parameter"),
        (("",), "optim.frozen freezes all parameters"),
    ],
)
def test_check_frozen_rejects(micro, frozen, message):
    with pytest.raises(UserError, match=message):
        check_frozen(with_changes(micro, {"optim.frozen": frozen}))


def test_frozen_rejects_what_is_no_regular_expression():
    with pytest.raises(UserError, match=r"optim.frozen '\(' is not a regular expression"):
        Optim(frozen=("(",))


def test_weight_decay_shrinks_matrices_only(params):
    with_decay, _ = _step(dataclasses.replace(OPTIM, weight_decay=0.5), params)
    without, _ = _step(OPTIM, params)
    assert (with_decay["head"]["kernel"] < without["head"]["kernel"]).all()
    np.testing.assert_array_equal(with_decay["head"]["bias"], without["head"]["bias"])


def test_averaged_params_follow_the_updated_parameters(params):
    after, opt_state = _step(dataclasses.replace(OPTIM, ema_decay=0.75), params)
    average = averaged_params(opt_state, after)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, params, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, expected)


def test_averaged_params_are_the_parameters_if_no_average_is_kept(params):
    after, opt_state = _step(OPTIM, params)
    assert averaged_params(opt_state, after) is after
