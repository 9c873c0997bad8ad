"""Losses of one's own: the configured loss as a function, and another one in its place."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import urgt_jax
from urgt_jax.data.pipeline import Batches
from urgt_jax.training import sharding
from urgt_jax.training.checkpoints import Checkpoints
from urgt_jax.training.step import train_step


def squared_error(maps, batch):
    """A loss with a term of its own."""
    error = jnp.where(batch["valid"], (maps["depth"] - batch["target"]) ** 2, 0).mean()
    return 3 * error, {"own_error": error}


@pytest.fixture
def batch(depth_only, mesh):
    return sharding.put_on_mesh(Batches(depth_only)[0], mesh)


@pytest.mark.slow
def test_losses_gives_the_loss_of_the_training_step(depth_only, mesh, first_state, batch):
    config = replace(depth_only, optim=replace(depth_only.optim, accumulate=1))
    maps = urgt_jax.apply(first_state.params, config.model, batch)
    loss, terms = urgt_jax.losses(config, maps, batch)
    _, metrics, _ = train_step(depth_only, mesh)(first_state, batch)
    assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for name, term in terms.items():
        assert float(term) == pytest.approx(float(metrics[name]), rel=1e-5)


@pytest.mark.slow
def test_own_loss_is_what_a_step_minimises_and_logs(depth_only, mesh, first_state, batch):
    maps = urgt_jax.apply(first_state.params, depth_only.model, batch)
    expected, _ = squared_error(maps, batch)
    state, metrics, _ = train_step(depth_only, mesh, squared_error)(first_state, batch)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["own_error"]) == pytest.approx(float(expected) / 3, rel=1e-5)
    assert "gradient" not in metrics
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, first_state.params)
    assert max(jax.tree.leaves(changed)) > 0


def test_train_with_an_own_loss_logs_its_terms(depth_only, tmp_path):
    config = replace(depth_only, optim=replace(depth_only.optim, steps=2))
    urgt_jax.train(config, tmp_path, loss=squared_error)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    for metrics in map(json.loads, lines):
        assert metrics["loss"] == pytest.approx(3 * metrics["own_error"], rel=1e-5)
        assert metrics["own_error"] > 0 and "gradient" not in metrics
    assert len(lines) == 2


def test_error_of_an_own_loss_leaves_no_open_checkpoints(depth_only, tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(Checkpoints, "close", lambda checkpoints: closed.append(checkpoints))

    def broken(maps, batch):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        urgt_jax.train(depth_only, tmp_path / "run", loss=broken)
    assert len(closed) == 1


def test_training_batch_names_what_a_batch_holds(depth_only):
    names = set(Batches(depth_only)[0])
    required = urgt_jax.TrainingBatch.__required_keys__
    assert required <= names <= required | urgt_jax.TrainingBatch.__optional_keys__


def test_init_draws_the_parameters_that_training_starts_from(depth_only, first_state):
    params = urgt_jax.init(depth_only.model, depth_only.seed)

    def compare(drawn, first):
        np.testing.assert_allclose(drawn, first, rtol=1e-5, atol=1e-7)

    jax.tree.map(compare, params, first_state.params)
