"""The refiner: against the released code, and where information may flow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import seeded_weights
from helpers.parity import (
    assert_close,
    golden,
    load_network,
    load_official,
    refiner_inputs,
)

from urgt_jax.images import grid
from urgt_jax.models import attention, refiner
from urgt_jax.models.rope import rotary_angles
from urgt_jax.weights import torch_names


def random_inputs(model, patches: int = 4) -> tuple:
    """Random image, coarse maps and token positions of an image in two rows of patches."""
    rng = np.random.default_rng(0)
    shape = (1, patches, *model.patch_size)
    image = jnp.asarray(rng.random((*shape, 3), np.float32))
    depth = jnp.asarray(rng.random(shape, np.float32))
    normal = jnp.asarray(rng.random((*shape, 3), np.float32))
    windows = grid.cover_image(40, 60, 2, patches // 2)
    origins = jnp.asarray(windows.origins)
    return image, depth, normal, grid.token_positions(origins, windows.patch, model.tokens)[None]


@pytest.mark.parametrize("case,longest", [("s4", 1024), ("s4_nonsq", 1024), ("s4_nonsq", 16)])
def test_refiner_equals_the_released_code(monkeypatch, case, longest):
    # With 16 the kernels of long sequences run on the whole way through the model.
    monkeypatch.setattr(attention, "MAX_DENSE", longest)
    monkeypatch.setattr(attention, "QUERY_CHUNK", 16)
    network, _ = load_network("urgt_network")
    want = golden("urgt_network")
    offsets = nnx.jit(lambda network, *x: network(*x))(
        network, *refiner_inputs("urgt_network", case)
    )
    for kind in ("depth", "normal"):
        assert_close(offsets[kind].value, want[f"{case}/out/{kind}"])
        assert_close(offsets[kind].confidence, want[f"{case}/out/{kind}_conf"])


@pytest.mark.slow
def test_refiner_equals_the_released_code_at_its_full_size():
    network, config = load_network("urgt_large")
    want = golden("urgt_large")
    assert config.model.width == 1024
    assert config.model.dpt_layers == (4, 11, 17, 23)
    offsets = nnx.jit(lambda network, *x: network(*x))(network, *refiner_inputs("urgt_large", "s4"))
    for kind in ("depth", "normal"):
        assert_close(offsets[kind].value, want[f"s4/out/{kind}"])
        assert_close(offsets[kind].confidence, want[f"s4/out/{kind}_conf"])


def test_encode_and_attend_equal_the_released_code():
    want = golden("urgt_blocks")
    case = "s4_nonsq"
    _, config = load_network("urgt_network")
    model = dataclasses.replace(config.model, dpt_layers=(0, 1, 3, 3))
    rules = []
    for rule in torch_names.refiner_rules(config):
        if rule.theirs.startswith("aggregator."):
            rules.append(rule._replace(theirs=rule.theirs.removeprefix("aggregator.")))
    official = seeded_weights.state(want)
    network = load_official(lambda: refiner.build(model, 0), rules, official)
    image, depth, normal, positions = refiner_inputs("urgt_blocks", case)
    tokens = network.encode(image, depth, normal)
    assert_close(tokens[0], want[f"{case}/mid/dino_patchtokens"])
    layers = network.attend(tokens, positions)
    special = refiner.SPECIAL_TOKENS
    for number, layer in zip((0, 1, 3), layers, strict=True):
        within, across = jnp.split(layer[0, :, special:], 2, -1)
        assert_close(within, want[f"{case}/mid/frame{number}"][:, special:])
        wanted = want[f"{case}/mid/global{number}"].reshape(4, -1, model.width)
        assert_close(across, wanted[:, special:])


@pytest.mark.parametrize("cross_patch", [True, False])
def test_attend_passes_gradients_between_patches_only_with_cross_patch_attention(
    micro, cross_patch
):
    model = dataclasses.replace(micro.model, cross_patch=cross_patch)
    network = refiner.build(model, 0)
    image, depth, normal, positions = random_inputs(model)

    def loss_of_first_patch(image):
        layers = network.attend(network.encode(image, depth, normal), positions)
        return (layers[:, :, 0] ** 2).sum()

    by_patch = jnp.abs(jax.grad(loss_of_first_patch)(image)).max((0, 2, 3, 4))
    assert by_patch[0] > 0
    if cross_patch:
        assert (by_patch[1:] > 0).all()
    else:
        assert (by_patch[1:] == 0).all()


def test_within_patch_block_passes_no_gradient_between_patches(micro):
    network = refiner.build(micro.model, 0)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 7, 16), np.float32))
    angles = rotary_angles(jnp.zeros((3, 7, 2)), 8)
    block = jax.tree.map(lambda a: a[0], network.within_patch)
    gradient = jax.grad(lambda x: (block(x, angles)[0] ** 2).sum())(x)
    assert (gradient[0] != 0).any()
    assert (gradient[1:] == 0).all()


def test_refiner_starts_near_its_coarse_maps_with_confidences_above_1(micro):
    offsets = refiner.build(micro.model, 0)(*random_inputs(micro.model))
    for kind, channels in (("depth", 1), ("normal", 3)):
        assert offsets[kind].value.shape == (1, 4, 28, 42, channels)
        assert jnp.abs(offsets[kind].value).max() < 0.05
        assert offsets[kind].confidence.min() > 1


def test_confidence_has_gradients_in_its_own_weights_only(micro):
    graph, params = nnx.split(refiner.build(micro.model, 0))

    def total_confidence(params):
        offsets = nnx.merge(graph, params)(*random_inputs(micro.model))
        return offsets["normal"].confidence.sum()

    gradients = nnx.to_pure_dict(jax.grad(total_confidence)(params))
    last = gradients["normal_head"]["pyramid"].pop("last")
    assert (last["kernel"][..., -1] != 0).any()
    assert (last["kernel"][..., :-1] == 0).all()
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_refiner_with_one_output_predicts_only_that(micro, kind):
    model = dataclasses.replace(micro.model, outputs=(kind,))
    assert set(refiner.build(model, 0)(*random_inputs(model))) == {kind}


def test_first_patch_has_special_tokens_of_its_own(micro):
    network = refiner.build(micro.model, 0)
    rows, cols = micro.model.tokens
    tokens = jnp.zeros((1, 3, rows * cols, micro.model.width))
    with_special, positions = network.add_special_tokens(tokens, jnp.ones((1, 3, rows * cols, 2)))
    first, second, third = with_special[0, :, : refiner.SPECIAL_TOKENS]
    assert (first != second).all()
    assert (second == third).all()
    assert (positions[:, :, : refiner.SPECIAL_TOKENS] == 0).all()


def test_local_positions_repeat_in_every_patch_and_global_ones_do_not(micro):
    difference = {}
    for rope in ("local", "global"):
        model = dataclasses.replace(micro.model, rope=rope, cross_patch=False)
        network = refiner.build(model, 0)
        image, depth, normal, positions = random_inputs(model)
        same = [jnp.broadcast_to(x[:, 1:2], x.shape) for x in (image, depth, normal)]
        layers = network.attend(network.encode(*same), positions)
        difference[rope] = float(jnp.abs(layers[-1, 0, 1] - layers[-1, 0, 3]).max())
    # Rotary scores depend on distances only. Without cross-patch attention a patch learns its
    # place in the image from the distances to its special tokens, which stay at position 0.
    assert difference["local"] < 1e-5 < difference["global"]


def test_dpt_heads_in_chunks_equal_dpt_heads_at_once(micro, monkeypatch):
    network = refiner.build(micro.model, 0)
    inputs = random_inputs(micro.model)
    at_once = network(*inputs)
    monkeypatch.setattr(refiner, "HEAD_PIXELS", 28 * 42 * 3)
    in_chunks = network(*inputs)
    for kind, want in at_once.items():
        np.testing.assert_allclose(in_chunks[kind].value, want.value, atol=1e-6)
        np.testing.assert_allclose(in_chunks[kind].confidence, want.confidence, atol=1e-6)
