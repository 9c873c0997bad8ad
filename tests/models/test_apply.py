"""The refiner as a pure function under jax's transformations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from urgt_jax.models import refiner
from urgt_jax.models.apply import apply
from urgt_jax.models.registry import build_with_params


@pytest.fixture(scope="module")
def params(micro) -> dict:
    return nnx.to_pure_dict(nnx.state(refiner.build(micro.model, 0), nnx.Param))


@pytest.fixture(scope="module")
def batch(micro) -> dict:
    """Two images of two patches."""
    rng = np.random.default_rng(0)
    shape = (2, 2, *micro.model.patch_size)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (*shape, 3)), jnp.uint8),
        "coarse_depth": jnp.asarray(rng.random(shape), jnp.float32),
        "coarse_normal": jnp.asarray(rng.random((*shape, 3)), jnp.float32),
        "origins": jnp.asarray([[[0, 0], [0, 3]]] * 2, jnp.float32),
    }


def test_apply_adds_the_offsets_of_the_network_to_the_coarse_maps(micro, params, batch):
    maps = jax.jit(apply, static_argnums=1)(params, micro.model, batch)
    shape = batch["coarse_depth"].shape
    assert {name: x.shape for name, x in maps.items()} == {
        "depth": shape,
        "normal": (*shape, 3),
        "depth_confidence": shape,
        "normal_confidence": shape,
    }
    moved = maps["depth"] - batch["coarse_depth"]
    assert 0 < jnp.abs(moved).max() < 0.05  # a fresh model starts near its coarse maps


def test_apply_takes_floats_in_the_unit_range_like_bytes(micro, params, batch):
    run = jax.jit(apply, static_argnums=1)
    as_floats = batch | {"image": batch["image"].astype(jnp.float32) / 255}
    from_bytes = run(params, micro.model, batch)
    from_floats = run(params, micro.model, as_floats)
    np.testing.assert_allclose(from_bytes["depth"], from_floats["depth"], atol=1e-6)


def test_apply_has_finite_gradients_of_all_parameters(micro, params, batch):
    def loss(params):
        maps = apply(params, micro.model, batch)
        return sum(x.sum() for x in maps.values())

    gradients = jax.jit(jax.grad(loss))(params)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_features_are_the_tokens_of_the_layers_that_the_heads_read(micro, params):
    rows, cols = micro.model.tokens
    tokens = refiner.tokens_per_patch(micro.model)
    layers = np.arange(2 * 3 * tokens * 8, dtype=np.float32).reshape(2, 1, 3, tokens, 8)
    network = build_with_params(micro.model, params)
    features = network.features(jnp.asarray(layers), micro.model.tokens)
    assert features.shape == (1, 3, 4, rows, cols, 8)
    for number, layer in enumerate((0, 0, 1, 1)):  # of model.dpt_layers
        patch = layers[layer, 0, 2, refiner.SPECIAL_TOKENS :].reshape(rows, cols, 8)
        np.testing.assert_array_equal(features[0, 2, number], patch)


def test_apply_under_vmap_equals_apply_on_each_image(micro, params, batch):
    run = partial(apply, params, micro.model, features=True)
    together = jax.jit(run)(batch)
    apart = jax.tree.map(lambda x: x[:, None], batch)
    mapped = jax.jit(jax.vmap(run))(apart)
    assert together["features"].shape[:3] == (2, 2, 4)
    for name, want in together.items():
        np.testing.assert_allclose(mapped[name][:, 0], want, atol=1e-5)


def test_apply_under_shard_map_equals_apply_on_one_device(micro, params, batch):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    cut = PartitionSpec("data")
    run = partial(apply, params, micro.model, features=True)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
    maps = jax.jit(sharded)(batch)
    for name, want in jax.jit(run)(batch).items():
        np.testing.assert_allclose(maps[name], want, atol=1e-5)
