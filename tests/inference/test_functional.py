"""patchify, apply and merge against the refiner."""

import importlib.util
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.random_refiner import image_with_coarse_maps, random_params

import urgt_jax
from urgt_jax.errors import UserError

SIZE = (41, 67)
close = partial(np.testing.assert_allclose, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def params(micro):
    """Random weights."""
    return random_params(micro.model)


def two_images():
    """Two images with coarse maps, stacked."""
    maps = [image_with_coarse_maps(SIZE, seed) for seed in (0, 1)]
    return [np.stack(arrays) for arrays in zip(*maps, strict=True)]


def test_patchify_gives_patches_of_the_model_s_size_and_their_origins(micro):
    batch = urgt_jax.patchify(*two_images(), grid=(2, 3), overlap=0.5, model=micro.model)
    assert batch["image"].shape == (2, 15, 28, 42, 3) and batch["image"].dtype == np.uint8
    assert batch["coarse_depth"].shape == (2, 15, 28, 42)
    assert batch["coarse_normal"].shape == (2, 15, 28, 42, 3)
    assert batch["origins"].shape == (2, 15, 2)
    np.testing.assert_array_equal(batch["origins"][0], batch["origins"][1])
    np.testing.assert_array_equal(batch["origins"][0, 0], [0, 0])


@pytest.mark.parametrize("grid,overlap", [((2, 3), 0.0), ((2, 2), 0.4)])
def test_apply_and_merge_give_what_the_refiner_gives(micro, params, grid, overlap):
    image, depth, normal = image_with_coarse_maps(SIZE)
    expected = urgt_jax.Refiner(params, micro)(image, depth, normal, grid, overlap)
    batch = urgt_jax.patchify(image, depth, normal, grid, overlap, model=micro.model)
    maps = jax.jit(urgt_jax.apply, static_argnums=1)(params, micro.model, batch)
    merged = urgt_jax.merge(maps, batch)
    close(merged[0], expected.depth)
    close(merged[1], expected.normal)
    assert np.abs(merged[0] - depth).max() > 1e-3


def test_merge_gives_each_image_of_a_batch_what_it_gives_alone(micro, params):
    images, depths, normals = two_images()
    depths[1] = 30 * depths[1] + 5  # every image has its own unit
    apply = jax.jit(urgt_jax.apply, static_argnums=1)
    batch = urgt_jax.patchify(*map(jnp.asarray, (images, depths, normals)), model=micro.model)
    depth, normal = urgt_jax.merge(apply(params, micro.model, batch), batch)
    assert depth.shape == (2, *SIZE) and normal.shape == (2, *SIZE, 3)
    for i in range(2):
        alone = urgt_jax.patchify(images[i], depths[i], normals[i], model=micro.model)
        maps = apply(params, micro.model, alone)
        alone_depth, alone_normal = urgt_jax.merge(maps, alone)
        np.testing.assert_allclose(depth[i], alone_depth, atol=1e-6 * np.ptp(depths[i]))
        close(normal[i], alone_normal)


def test_merge_returns_metric_depth_in_metres(micro, params):
    prior = replace(micro.prior, kind="depth")
    config = replace(micro, prior=prior)
    image, depth, normal = image_with_coarse_maps(SIZE)
    depth = 10 * depth
    expected = urgt_jax.Refiner(params, config)(image, depth, normal, (2, 2))
    batch = urgt_jax.patchify(
        image,
        depth,
        normal,
        (2, 2),
        model=micro.model,
        prior=prior,
        max_depth=config.data.max_depth,
    )
    merged, _ = urgt_jax.merge(urgt_jax.apply(params, micro.model, batch), batch)
    np.testing.assert_allclose(merged, expected.depth, atol=1e-6 * config.data.max_depth)


def test_batch_has_gradients_and_passes_through_jit(micro, params):
    batch = urgt_jax.patchify(*image_with_coarse_maps(SIZE), (1, 2), model=micro.model)

    @jax.jit
    @jax.grad
    def gradient(params, batch):
        return urgt_jax.apply(params, micro.model, batch)["depth"].mean()

    largest = max(jnp.abs(x).max() for x in jax.tree.leaves(gradient(params, batch)))
    assert 0 < largest < jnp.inf


def test_apply_exported_as_stablehlo_gives_the_same_maps(micro, params):
    batch = urgt_jax.patchify(*image_with_coarse_maps(SIZE), (1, 2), model=micro.model)
    names = ("image", "coarse_depth", "coarse_normal", "origins")
    arrays = {name: jnp.asarray(batch[name]) for name in names}
    leaves, structure = jax.tree.flatten(params)  # a file takes no integer keys

    @jax.jit
    def apply(leaves, arrays):
        return urgt_jax.apply(jax.tree.unflatten(structure, leaves), micro.model, arrays)

    exported = jax.export.export(apply)(leaves, arrays)
    assert "stablehlo.dot_general" in exported.mlir_module()
    if importlib.util.find_spec("flatbuffers"):  # which jax.export needs for files
        exported = jax.export.deserialize(exported.serialize())
    maps = exported.call(leaves, arrays)
    expected = apply(leaves, arrays)
    assert set(maps) == set(expected)
    for name in maps:
        close(maps[name], expected[name])


def test_patchify_rejects_maps_that_do_not_fit_the_image(micro):
    image, depth, normal = image_with_coarse_maps(SIZE)
    with pytest.raises(UserError, match=r"coarse depth has shape \(40, 67\)"):
        urgt_jax.patchify(image, depth[1:], normal, model=micro.model)
    with pytest.raises(UserError, match="give as many of each"):
        images, depths, normals = two_images()
        urgt_jax.patchify(images, depths[:1], normals, model=micro.model)
    with pytest.raises(UserError, match=r"give uint8 \[H, W, 3\]"):
        urgt_jax.patchify(image / 255, depth, normal, model=micro.model)
