"""Fixtures that several tests of training share."""

import dataclasses

import jax
import pytest
from jax.sharding import Mesh

from urgt_jax.config import Config, Optim
from urgt_jax.config_files import with_changes
from urgt_jax.training import sharding
from urgt_jax.training.step import State, initial_state


@pytest.fixture(scope="session")
def depth_only(micro: Config) -> Config:
    """One output, which halves the time to compile, and two parts in a step of single patches."""
    optim = Optim(learning_rate=1e-3, steps=8, accumulate=2)
    changes = {"model.outputs": ("depth",), "data.mix": (1.0, 0.0, 0.0, 0.0)}
    return with_changes(dataclasses.replace(micro, optim=optim), changes)


@pytest.fixture(scope="session")
def mesh(depth_only: Config) -> Mesh:
    return sharding.make_mesh(depth_only)


@pytest.fixture(scope="session")
def first_state(depth_only: Config, mesh: Mesh) -> State:
    """The state before the first step, on the host."""
    return jax.device_get(initial_state(depth_only, mesh))
