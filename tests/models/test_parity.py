"""The networks against arrays that the released PyTorch code made, stage by stage.

The code ran on a CPU in float32 (torch 2.13) with weights drawn from a seed (tests/seeded.py). Its
own rounding, against float64, is about 1e-5.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import seeded_weights as seeded

from urgt_jax.config import TOKEN_SIZE
from urgt_jax.images import grid
from urgt_jax.models import depth_anything, dpt, refiner, registry
from urgt_jax.models.rope import apply_rope, rotary_angles
from urgt_jax.models.vit import VisionTransformer
from urgt_jax.weights import detect, torch_names
from urgt_jax.weights.weight_file import flatten_params

close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)


@functools.cache
def fixture(name: str):
    return np.load(seeded.GOLDEN / f"{name}.npz")


def last(x: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(x, -3, -1)


class Shape:
    """A tensor of which only the shape is known."""

    def __init__(self, array):
        self.shape = array.shape


def loaded(build, rules: list, official: dict):
    """What `build` makes, with official weights; parts that no rule names are zero."""
    graph, state = nnx.split(nnx.eval_shape(build), nnx.Param)
    tree = nnx.to_pure_dict(state)
    shapes = flatten_params(tree)
    made = {
        rule.ours: torch_names.gather(rule, shapes[rule.ours].shape, official.__getitem__)
        for rule in rules
    }
    leaves = [jnp.asarray(made.get(n, np.zeros(x.shape, np.float32))) for n, x in shapes.items()]
    nnx.replace_by_pure_dict(state, jax.tree.unflatten(jax.tree.structure(tree), leaves))
    return nnx.merge(graph, state)


@functools.cache
def network(name: str):
    """The network and the configuration of a fixture's weights, as `convert` finds them."""
    official, told = seeded.state(fixture(name)), seeded.settings(fixture(name))
    kind, found, _ = detect.detect_family({n: Shape(x) for n, x in official.items()}, name)
    config = detect.INFER_CONFIG[kind](found, detect.UserConfig(told, name))
    rules, inner = torch_names.RULES[kind](config), registry.network_config(config)
    return loaded(lambda: registry.build(inner, 0), rules, official), config


def without(prefix: str, rules: list) -> list:
    """The rules of one part, with names as that part alone has them."""
    strip = lambda name: name.removeprefix(prefix)  # noqa: E731
    return [r._replace(theirs=strip(r.theirs)) for r in rules if r.theirs.startswith(prefix)]


def views(name: str, case: str):
    """Patches, priors and lattice of a case."""
    get = lambda key: fixture(name)[f"{case}/in/{key}"]  # noqa: E731
    image = last(get("images"))
    depth, normal = get("depth_prior")[:, :, 0], last(get("normal_prior"))[None]
    side = round(image.shape[1] ** 0.5)
    h, w = image.shape[2:4]
    windows = grid.cover_image(side * h, side * w, side, side)
    spots = grid.token_positions(
        windows.origins, windows.patch, (h // TOKEN_SIZE, w // TOKEN_SIZE)
    )[None]
    return image, depth, normal, spots


@functools.cache
def offsets(case: str):
    net, _ = network("urgt_network")
    return jax.device_get(jax.jit(lambda net, *x: net(*x))(net, *views("urgt_network", case)))


@pytest.mark.parametrize("case", ["s4", "s4_nonsq"])
@pytest.mark.parametrize("kind", ["depth", "normal"])
def test_the_refiner(case, kind):
    found, want = offsets(case)[kind], fixture("urgt_network")
    close(found.value, want[f"{case}/out/{kind}"])
    close(found.confidence, want[f"{case}/out/{kind}_conf"])


@pytest.mark.slow
def test_the_refiner_at_its_full_size():
    net, config = network("urgt_large")
    assert config.model.width == 1024 and config.model.dpt_layers == (4, 11, 17, 23)
    found = jax.jit(lambda net, *x: net(*x))(net, *views("urgt_large", "s4"))
    for kind in ("depth", "normal"):
        close(found[kind].value, fixture("urgt_large")[f"s4/out/{kind}"])
        close(found[kind].confidence, fixture("urgt_large")[f"s4/out/{kind}_conf"])


def test_encoder_and_pairs():
    config = network("urgt_network")[1]
    model = dataclasses.replace(config.model, dpt_layers=(0, 1, 3, 3))
    rules = without("aggregator.", torch_names.refiner_rules(config))
    net = loaded(lambda: refiner.build(model, 0), rules, seeded.state(fixture("urgt_blocks")))
    image, depth, normal, spots = views("urgt_blocks", "s4_nonsq")
    want = lambda key: fixture("urgt_blocks")[f"s4_nonsq/mid/{key}"]  # noqa: E731
    tokens = net.encode(image, depth, normal)
    close(tokens[0], want("dino_patchtokens"))
    width, special = tokens.shape[-1], refiner.SPECIAL_TOKENS
    for number, layer in zip((0, 1, 3), net.attend(tokens, spots), strict=False):
        within, across = layer[0, ..., :width], layer[0, ..., width:]
        close(within[:, special:], want(f"frame{number}")[:, special:])
        close(across[:, special:], want(f"global{number}").reshape(4, -1, width)[:, special:])


def test_rotation_of_queries():
    got = fixture("urgt_blocks")
    before, after = (got[f"s4_nonsq/mid/rope_q_{k}_frame0"] for k in ("in", "out"))
    places = jnp.asarray(got["s4_nonsq/mid/pos"], jnp.float32)
    numbers_first = jnp.asarray(before)[:, None].swapaxes(-1, -2)
    turned = apply_rope(numbers_first, rotary_angles(places, before.shape[-1]))
    close(turned[:, 0].swapaxes(-1, -2), after)


def test_stages_of_a_head():
    want, case = fixture("urgt_head"), "n_s2_nonsq"
    config = network("urgt_network")[1]
    rules = without("normal_head.", torch_names.refiner_rules(config))
    rules = [r._replace(ours=r.ours.removeprefix("normal_head.")) for r in rules]
    build = lambda: dpt.Head(config.model, 3, nnx.Rngs(0))  # noqa: E731
    head = loaded(build, rules, seeded.state(want, "sd_normal/"))
    tokens = [jnp.asarray(want[f"{case}/in/tokens{i}"][0, :, 5:]) for i in range(4)]
    rows, cols = want[f"{case}/in/image_hw"] // TOKEN_SIZE
    levels = head.pyramid.reassemble([head.norm(x) for x in tokens], rows, cols)
    path = head.pyramid.fuse(levels)
    close(path, last(want[f"{case}/mid/refinenet1"]))
    close(head.pyramid.smooth(path), last(want[f"{case}/mid/output_conv1"]))
    value, confidence = head(tokens, int(rows), int(cols))
    close(value, want[f"{case}/out/preds"][0])
    close(confidence, want[f"{case}/out/conf"][0])


CASES = [("dinov2_registers", "42x42", True), ("dinov2_registers", "56x98", True),
         ("dinov2_plain", "56x98", False), ("dinov2_swiglu", "56x98", False)]  # fmt: skip


@pytest.mark.parametrize("name,case,priors", CASES)
def test_dinov2(name, case, priors):
    """Registers or none, MLP or SwiGLU, both ways to resample positions."""
    want, told = fixture(name), seeded.settings(fixture(name))
    official = seeded.state(want)
    config = detect.infer_encoder(
        {n: Shape(x) for n, x in official.items()}, detect.UserConfig(told, name)
    )
    build = lambda: VisionTransformer(config, jnp.float32, nnx.Rngs(0), priors=priors)  # noqa: E731
    net = loaded(build, torch_names.vit_rules(config, "", "", priors=priors), official)
    maps = [last(want[f"{case}/in/image"])]
    if priors:
        maps += [want[f"{case}/in/depth_prior"][:, 0], last(want[f"{case}/in/normal_prior"])]
    tokens = net.embed(*maps)
    close(tokens, want[f"{case}/mid/tokens0"])
    first, second = net.layers(tokens, (1, 2))
    close(first, want[f"{case}/mid/block1"])
    close(second, want[f"{case}/mid/block2"])
    close(net(*maps), want[f"{case}/out/x_norm_patchtokens"])


def test_depth_anything():
    want, (net, _) = fixture("depth_anything"), network("depth_anything")
    x = last(want["fwd_56x98/in/x"])
    layers = net.vit.layers(net.vit.embed(x), net.config.layers)
    tokens = [net.vit.norm(y)[:, 1:] for y in layers]
    path = net.pyramid.fuse(net.pyramid.reassemble(tokens, 4, 7))
    close(path, last(want["fwd_56x98/mid/path_1"]))
    close(net(x), want["fwd_56x98/out/depth"][:, 0])


@pytest.mark.parametrize("case", ["infer_61x83_70", "infer_97x53_84"])
def test_depth_anything_from_a_picture(case):
    want, (net, _) = fixture("depth_anything"), network("depth_anything")
    image = want[f"{case}/in/image_bgr"][..., ::-1]
    small = depth_anything.prepare(image, int(want[f"{case}/in/input_size"]))
    np.testing.assert_array_equal(small, last(want[f"{case}/mid/tensor"]))
    depth = depth_anything.finish(np.asarray(net(small)), *image.shape[:2])
    close(depth, want[f"{case}/out/depth"])


def test_depth_anything_of_its_real_small_size():
    want, (net, config) = fixture("depth_anything_vits"), network("depth_anything_vits")
    assert (config.vit.num_heads, config.layers) == (6, (2, 5, 8, 11))
    close(net(last(want["fwd_84x112/in/x"])), want["fwd_84x112/out/depth"][:, 0])


def test_depth_anythings_input_sizes():
    sizes_of = fixture("depth_anything")
    pairs = zip(sizes_of["resize518/in/hw"], sizes_of["resize518/out/wh"], strict=True)
    for (h, w), (wide, high) in pairs:
        assert depth_anything.input_size(int(h), int(w), 518) == (high, wide)
