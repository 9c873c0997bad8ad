"""The loss: zero for the truth, and the terms beyond the paper measure what they are meant to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix
from urgt_jax.data.sources import SceneSource
from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.training import losses


@pytest.fixture(scope="module")
def config(micro) -> Config:
    """Images whose patches need no resizing, whose neighbours share halves, with a seam term."""
    changes = {
        "data.size": (112, 168),
        "data.overlap": 0.5,
        "loss.normal_target": "exact",
        "loss.seam": 1.0,
    }
    return with_changes(micro, changes)


@pytest.fixture(scope="module")
def batch(config) -> dict:
    """A block of 3 x 3 patches of a scene."""
    windows = grid.gridmix_block(*config.data.size, 3, 1, 2, config.data.overlap)
    block = gridmix.read_block(SceneSource(config, "train"), 3, config, windows)
    return {name: jnp.asarray(x)[None] for name, x in block.items()}


@partial(jax.jit, static_argnums=0)  # one program compiles faster than its operations one by one
def _terms(config: Config, batch: dict, depth: jax.Array, normal: jax.Array) -> dict:
    maps = {"depth": depth, "normal": normal}
    return losses.compute_terms(config, maps, batch, losses.valid_counts(config, batch))


def test_depth_terms_are_zero_for_the_truth_and_positive_for_noise(config, batch):
    truth = _terms(config, batch, batch["target"], batch["normal"])
    assert truth["depth"] == truth["gradient"] == truth["seam"] == 0
    noise = np.random.default_rng(0).random(batch["target"].shape, np.float32)
    noisy = _terms(config, batch, batch["target"] + 0.05 * noise, batch["normal"])
    assert noisy["depth"] > 0 and noisy["gradient"] > 0 and noisy["seam"] > 0


def test_seam_term_measures_the_offset_of_a_patch_from_its_neighbours(config, batch):
    batch = {**batch, "valid": jnp.ones_like(batch["valid"])}
    offset = batch["target"].at[:, 4].add(0.25)  # the centre of 3 x 3 has four of twelve borders
    seam = _terms(config, batch, offset, batch["normal"])["seam"]
    assert float(seam) == pytest.approx(0.25 * 4 / 12, rel=1e-5)


def test_seam_term_of_a_single_patch_is_zero(config, batch):
    batch = {name: x[:, :1] for name, x in batch.items()}
    assert _terms(config, batch, batch["target"] + 1, batch["normal"])["seam"] == 0


@pytest.mark.parametrize("error,expected", [("cosine", 1.0), ("distance", 2.0**0.5)])
def test_angular_term_of_perpendicular_normals(config, batch, error, expected):
    perpendicular = jnp.cross(batch["normal"], jnp.array([0.3, 0.5, 0.2]))
    config = with_changes(config, {"loss.normal_error": error})
    angular = _terms(config, batch, batch["target"], perpendicular)["angular"]
    assert float(angular) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_finite_even_where_nothing_is_valid(config, batch):
    def loss(depth: jax.Array, normal: jax.Array, batch: dict) -> jax.Array:
        return losses.weighted_sum(config, _terms(config, batch, depth, normal))

    gradients = jax.jit(jax.grad(loss, (0, 1)))
    for valid in (batch["valid"], batch["valid"] & False):
        for depth in (batch["target"], 0 * batch["target"]):
            masked = {**batch, "valid": valid}
            for gradient in gradients(depth, batch["normal"], masked):
                assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"data.overlap": 0.3}, "data.overlap 0.3"),
        ({"loss.seam": 1.0}, "data.overlap 0.5"),
        ({"loss.seam": 1.0, "data.overlap": 0.5, "data.batching": "packed"}, "loss.seam"),
        ({"loss.confidence": -1.0}, "loss.confidence -1.0 must not be negative"),
    ],
)
def test_config_rejects_terms_that_cannot_be_computed(micro, fields, message):
    with pytest.raises(UserError, match=message):
        with_changes(micro, fields)
