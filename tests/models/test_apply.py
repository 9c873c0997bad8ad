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


def test_apply_under_vmap_equals_apply_on_each_image(micro, params, batch):
    run = partial(apply, params, micro.model)
    together = jax.jit(run)(batch)
    apart = jax.tree.map(lambda x: x[:, None], batch)
    mapped = jax.jit(jax.vmap(run))(apart)
    for name, want in together.items():
        np.testing.assert_allclose(mapped[name][:, 0], want, atol=1e-5)


def test_apply_under_shard_map_equals_apply_on_one_device(micro, params, batch):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    cut = PartitionSpec("data")
    run = partial(apply, params, micro.model)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
    maps = jax.jit(sharded)(batch)
    for name, want in jax.jit(run)(batch).items():
        np.testing.assert_allclose(maps[name], want, atol=1e-5)
