"""The network: where information may flow, and that fast paths equal slow ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from urgt_jax.images import grid
from urgt_jax.models import refiner
from urgt_jax.models.convolution import _convolve, convolve
from urgt_jax.models.rope import apply_rope, rotary_angles


def _inputs(model, patches=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = (1, patches, *model.patch_size)
    draw = lambda *s: rng.random((*shape, *s), np.float32)  # noqa: E731
    windows = grid.cover_image(40, 60, 2, patches // 2)
    spots = grid.token_positions(windows.origins, windows.patch, model.tokens)[None]
    return draw(3), draw(), draw(3), spots


@pytest.mark.parametrize("cross", [True, False])
def test_gradients_cross_patches_only_with_cross_attention(micro, cross):
    model = dataclasses.replace(micro.model, cross_patch=cross)
    net = refiner.build(model, 0)
    image, depth, normal, spots = _inputs(model)

    def of_first_patch(image):
        tokens = net.attend(net.encode(image, depth, normal), spots)
        return sum((layer[:, 0] ** 2).sum() for layer in tokens)

    moved = jnp.abs(jax.grad(of_first_patch)(image)).max((0, 2, 3, 4))
    assert moved[0] > 0
    assert (moved[1:] > 0).all() if cross else (moved[1:] == 0).all()


def test_within_patch_blocks_alone_let_no_gradient_cross(micro):
    net = refiner.build(micro.model, 0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 7, 16), np.float32))
    turn = rotary_angles(jnp.zeros((3, 7, 2)), 8)
    block = jax.tree.map(lambda a: a[0], net.within_patch)
    gradient = jax.grad(lambda x: (block(x, turn)[0] ** 2).sum())(x)
    assert (gradient[1:] == 0).all() and (gradient[0] != 0).any()


def test_a_model_starts_near_its_priors_and_is_sure_from_one_up(micro):
    out = refiner.build(micro.model, 0)(*_inputs(micro.model))
    for name, channels in (("depth", 1), ("normal", 3)):
        assert out[name].value.shape == (1, 4, 28, 42, channels)
        assert jnp.abs(out[name].value).max() < 0.05
        assert out[name].confidence.min() > 1


def test_confidences_read_the_features_of_the_maps_and_do_not_shape_them(micro):
    net = refiner.build(micro.model, 0)
    graph, params = nnx.split(net)

    def doubt(params):
        return nnx.merge(graph, params)(*_inputs(micro.model))["normal"].confidence.sum()

    gradients = nnx.to_pure_dict(jax.grad(doubt)(params))
    last = gradients["normal_head"]["pyramid"]["last"]
    maps, sure = last["kernel"][..., :-1], last["kernel"][..., -1]
    assert (sure != 0).any() and (maps == 0).all()
    del gradients["normal_head"]["pyramid"]["last"]
    assert all((g == 0).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_one_head_alone(micro, kind):
    model = dataclasses.replace(micro.model, outputs=(kind,))
    assert set(refiner.build(model, 0)(*_inputs(model))) == {kind}


def test_the_first_patch_has_special_tokens_of_its_own(micro):
    net = refiner.build(micro.model, 0)
    first, second, third = net._special(1, np.arange(3) == 0, jnp.float32)[0]
    assert (first != second).all() and (second == third).all()


def test_local_positions_repeat_in_every_patch_and_global_ones_do_not(micro):
    found = {}
    for rope in ("local", "global"):
        net = refiner.build(dataclasses.replace(micro.model, rope=rope, cross_patch=False), 0)
        image, depth, normal, spots = _inputs(micro.model)
        same = [jnp.broadcast_to(x[:, 1:2], x.shape) for x in (image, depth, normal)]
        tokens = net.attend(net.encode(*same), spots)[-1]
        found[rope] = float(jnp.abs(tokens[0, 1] - tokens[0, 3]).max())
    # Rotations are relative: on its own, a patch cannot tell where it lies but by special tokens.
    assert found["local"] < 1e-5 < found["global"]


def test_rotation_depends_on_distance_only():
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 16, 1), np.float32)) for _ in range(2))

    def product(a, b):
        turn = [rotary_angles(jnp.array([[place]]), 16) for place in (a, b)]
        turned = apply_rope(q, turn[0]), apply_rope(k, turn[1])
        return float((turned[0] * turned[1]).sum())

    near, far = product([3.0, 5.0], [1.0, 2.0]), product([103.0, 55.0], [101.0, 52.0])
    assert near == pytest.approx(far, rel=1e-3)
    assert near != pytest.approx(product([3.0, 5.0], [2.0, 1.0]), rel=1e-3)


def test_the_fast_convolution_has_the_gradients_of_the_plain_one():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 9, 7, 3), np.float32)
    kernel = rng.standard_normal((3, 3, 3, 5), np.float32)
    wave = lambda f: lambda x, k: jnp.sin(f(x, k)).sum()  # noqa: E731
    fast = jax.grad(wave(convolve), (0, 1))(x, kernel)
    plain = jax.grad(wave(_convolve), (0, 1))(x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), fast, plain)


def test_heads_in_chunks_equal_heads_at_once(micro, monkeypatch):
    net, inputs = refiner.build(micro.model, 0), _inputs(micro.model)
    whole = net(*inputs)
    monkeypatch.setattr(refiner, "HEAD_PIXELS", 28 * 42 * 3)
    parts = net(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, parts)


def test_the_paper_model_has_975_million_parameters():
    from urgt_jax.config import SIZES
    from urgt_jax.models.registry import abstract_params

    count = sum(x.size for x in jax.tree.leaves(abstract_params(SIZES["large"])))
    assert count == pytest.approx(975e6, rel=2e-3)


def test_a_convolution_has_gradients_in_bfloat16():
    rng = np.random.default_rng(3)
    x, kernel = (
        jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
        for shape in ((2, 5, 6, 4), (3, 3, 4, 4))
    )
    pull = jax.jit(jax.grad(lambda *a: convolve(*a).astype(jnp.float32).sum(), (0, 1)))
    whole = pull(*(a.astype(jnp.float32) for a in (x, kernel)))
    for half, full in zip(pull(x, kernel), whole, strict=True):
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.2, rtol=0.02)
