"""Metric3D v2 against arrays that its released code made with weights drawn from a seed.

The code ran on a CPU in float32 (torch 2.13); `tests/seeded.py` draws the same weights again.
"""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import seeded_weights as seeded

from urgt_jax.config import Vit
from urgt_jax.errors import UserError
from urgt_jax.models import metric3d
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.weights import torch_names

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = dict(channels=(12, 24), hidden=16)
SHAPES = {
    "small": Metric3DConfig(
        Vit(width=48, depth=3, num_heads=3, pretrain_size=70, position_resampling="offset"), iters=4, **TINY
    ),
    "giant": Metric3DConfig(
        Vit(width=48, depth=8, num_heads=3, pretrain_size=70, ffn="swiglu", position_resampling="offset"),
        reads="quarters", iters=3, **TINY,
    ),
    "vits": Metric3DConfig(
        Vit(width=384, depth=12, num_heads=6, position_resampling="offset"),
        channels=(96, 192), hidden=48, iters=4,
    ),
}  # fmt: skip
STAGES = ["enc0", "enc3", "read_0", "read_1", "read_2", "read_3", "ref_feat", "ctx04_h", "ctx08_h",
          "ctx16_c", "delta_flow", "depth_iter0", "normal_iter0"]  # fmt: skip


@functools.cache
def fixture(name: str):
    return np.load(GOLDEN / f"metric3d_{name}.npz")


def array(name: str, key: str) -> np.ndarray:
    """An array of a fixture, channels last."""
    x = fixture(name)[key]
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def leaves(model) -> dict:
    """The parameters by their dotted names."""
    tree = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(k.key) for k in path): leaf for path, leaf in flat}


@functools.cache
def load(name: str) -> metric3d.Metric3D:
    """The network with the fixture's official weights."""
    c, official = SHAPES[name], seeded.state(fixture(name))
    model = nnx.eval_shape(lambda: metric3d.build(c, 0))
    graph, state = nnx.split(model)
    shapes = leaves(model)
    made = {
        rule.ours: torch_names.gather(rule, shapes[rule.ours].shape, official.__getitem__)
        for rule in torch_names.metric3d_rules(c)
    }
    tree = nnx.to_pure_dict(state)
    paths = jax.tree_util.tree_map_with_path(lambda p, _: ".".join(str(k.key) for k in p), tree)
    nnx.replace_by_pure_dict(state, jax.tree.map(lambda path: jnp.asarray(made[path]), paths))
    return nnx.merge(graph, state)


@jax.jit
def stages(model, image):
    """What the released code's intermediate arrays hold."""
    tokens, rows, cols = model.encode(image)
    maps = model.reassembly(tokens, rows, cols)
    states, contexts = model.start(maps)
    flow = model.guess(maps)
    after, change = model.update(states, contexts, flow)
    mask = metric3d.perceptron(model.update.mask, after[0])
    depth, _, normal = model.outputs(metric3d.upsample(flow + change, mask))
    last = model.contexts[2](jax.nn.relu(maps[2]))
    values = (tokens[0], tokens[3], *maps, model.guess.fuse(maps), *states[:2], last, change)
    reached = dict(zip(STAGES, (*values, depth[..., None], normal), strict=True))
    return reached, model.outputs(metric3d.upsample(*model.refine(states, contexts, flow)))


@functools.cache
def reached(name: str, case: str) -> tuple[dict, tuple]:
    """Intermediate arrays, of the first size only, and outputs."""
    model, image = load(name), array(name, f"{case}/in/x")
    if f"{case}/mid/enc0" not in fixture(name).files:
        return {}, jax.device_get(jax.jit(lambda m, x: m(x))(model, image))
    return jax.device_get(stages(model, image))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["small", "giant"])
def test_stages_equal_the_released_code(name, stage):
    want = array(name, f"56x84/mid/{stage}")
    want = np.tanh(want) if stage.endswith("_h") else want
    atol = 1e-2 if "depth" in stage else 1e-4
    np.testing.assert_allclose(reached(name, "56x84")[0][stage], want, atol=atol, rtol=0)


CASES = [("small", "56x84"), ("small", "70x98"), ("small", "60x100"), ("giant", "56x84"),
         ("vits", "56x84")]  # fmt: skip


@pytest.mark.parametrize("name,case", CASES)
def test_outputs_equal_the_released_code(name, case):
    depth, confidence, normal = reached(name, case)[1]
    want = {key: array(name, f"{case}/out/{key}") for key in ("depth", "confidence")}
    np.testing.assert_allclose(depth, want["depth"][..., 0], atol=1e-2, rtol=0)
    np.testing.assert_allclose(confidence, want["confidence"][..., 0], atol=1e-4, rtol=0)
    wanted = array(name, f"{case}/out/prediction_normal")
    np.testing.assert_allclose(normal, wanted, atol=1e-4, rtol=0)


def test_the_bins_equal_the_released_code():
    want = fixture("small")["bins/out/anchors"]
    np.testing.assert_allclose(metric3d.anchors(SHAPES["small"]), want, rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_rules_name_every_official_tensor_once_and_know_its_shape(name):
    shapes = json.loads(str(fixture(name)["recipe"]))["shapes"]
    ours = leaves(nnx.eval_shape(lambda: metric3d.build(SHAPES[name], 0)))
    rules = torch_names.metric3d_rules(SHAPES[name])
    assert sorted(rule.ours for rule in rules) == sorted(ours)
    named = []
    for rule in rules:
        shape = ours[rule.ours].shape
        for key in torch_names.official_names(rule, shape):
            named.append(key)
            assert tuple(shapes[key]) == tuple(torch_names.official_shape(rule, shape)), key
    unused = [k for k in shapes if any(re.search(p, k) for p in torch_names.UNUSED_TENSORS)]
    assert sorted([*named, *unused]) == sorted(shapes)


@pytest.mark.parametrize("size,want", [((69, 85), (68, 96)), ((616, 1064), (616, 1064))])
def test_only_multiples_of_28_keep_their_size(size, want):
    model = nnx.eval_shape(lambda: metric3d.build(SHAPES["small"], 0))
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    depth, confidence, normal = nnx.eval_shape(lambda m, x: m(x), model, image)
    assert depth.shape == confidence.shape == (2, *want)
    assert normal.shape == (2, *want, 4)
    with pytest.raises(UserError, match="multiples of 28"):
        Metric3DConfig(input_size=(616, 1050))


def test_enlarging_repeats_the_pixel_below():
    for side in range(1, 80):
        line = np.arange(side, dtype=np.float32).reshape(1, side, 1, 1)
        got = np.asarray(metric3d.enlarge_nearest(line))[0, :, 0, 0]
        np.testing.assert_array_equal(got, np.floor(np.arange(int(3.5 * side)) / 3.5))


def test_upsampling_is_a_convex_combination():
    rng = np.random.default_rng(0)
    flow = rng.uniform(1, 2, (1, 5, 6, 3)).astype(np.float32)
    fine = np.asarray(metric3d.upsample(flow, 9 * rng.standard_normal((1, 5, 6, 144))))
    assert fine.shape == (1, 20, 24, 3)
    inside = fine[:, 4:-4, 4:-4]  # elsewhere zeros from outside take part
    assert inside.min() >= 1 and inside.max() <= 2 and fine.min() >= 0
    sure = np.zeros((1, 5, 6, 9, 16), np.float32)
    sure[:, :, :, 4] = 400
    centre = metric3d.upsample(flow, sure.reshape(1, 5, 6, 144))
    np.testing.assert_allclose(centre, flow.repeat(4, 1).repeat(4, 2), rtol=1e-6)


@pytest.mark.parametrize("height,width", [(61, 83), (289, 200), (559, 900), (30, 400), (700, 31)])
def test_a_prepared_picture_comes_back_in_its_place(height, width):
    image = np.full((height, width, 3), 255, np.uint8)
    ready, place = metric3d.prepare(image, (616, 1064))
    assert ready.shape == (1, 616, 1064, 3) and ready.dtype == np.float32
    white = ready[0].min(-1) > 2
    assert white.sum() == place.height * place.width
    np.testing.assert_allclose(ready[0][~white], 0, atol=0.01)  # the border is the mean, rounded
    if height in (289, 559) and place.left > 0:
        assert place.height == 615  # the released code truncates 615.99...
    lit = np.where(white[..., None], np.float32([0.6, 0, -0.8, 5]), np.nan)
    normal = metric3d.finish(lit[None], place, (height, width))
    assert normal.shape == (height, width, 3)
    np.testing.assert_allclose(normal, np.broadcast_to([0.6, 0, -0.8], normal.shape), atol=1e-6)
