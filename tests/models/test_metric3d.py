"""Metric3D v2 against arrays of the released code, and its input and output."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import seeded_weights
from helpers.parity import golden, load_official

from urgt_jax.config import Vit
from urgt_jax.errors import UserError
from urgt_jax.models import metric3d
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import abstract_params
from urgt_jax.weights import torch_names
from urgt_jax.weights.weight_file import flatten_params

CONFIGS = {
    "small": Metric3DConfig(
        Vit(width=48, depth=3, num_heads=3, pretrain_size=70, position_resampling="offset"),
        channels=(12, 24),
        hidden=16,
        iters=4,
    ),
    "giant": Metric3DConfig(
        Vit(
            width=48,
            depth=8,
            num_heads=3,
            pretrain_size=70,
            ffn="swiglu",
            position_resampling="offset",
        ),
        reads="quarters",
        channels=(12, 24),
        hidden=16,
        iters=3,
    ),
    "vits": Metric3DConfig(
        Vit(width=384, depth=12, num_heads=6, position_resampling="offset"),
        channels=(96, 192),
        hidden=48,
        iters=4,
    ),
}
STAGES = [
    "enc0",
    "enc3",
    "read_0",
    "read_1",
    "read_2",
    "read_3",
    "ref_feat",
    "ctx04_h",
    "ctx08_h",
    "ctx16_c",
    "delta_flow",
    "depth_iter0",
    "normal_iter0",
]


def golden_array(name: str, key: str) -> np.ndarray:
    """An array of a golden file, channels last."""
    x = golden(f"metric3d_{name}")[key]
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


@functools.cache
def load_metric3d(name: str) -> metric3d.Metric3D:
    """The network with the official weights of a golden file."""
    config = CONFIGS[name]
    official = seeded_weights.state(golden(f"metric3d_{name}"))
    rules = torch_names.metric3d_rules(config)
    return load_official(lambda: metric3d.build(config, 0), rules, official)


@jax.jit
def run_stages(network: metric3d.Metric3D, image: jax.Array) -> tuple[dict, tuple]:
    """The intermediate arrays of the released code after one round, and the outputs after all."""
    tokens, rows, cols = network.encode(image)
    maps = network.reassembly(tokens, rows, cols)
    states, contexts = network.start(maps)
    flow = network.guess(maps)
    new_states, change = network.update(states, contexts, flow)
    mask = metric3d.perceptron(network.update.mask, new_states[0])
    depth, _, normal = network.outputs(metric3d.upsample(flow + change, mask))
    arrays = {
        "enc0": tokens[0],
        "enc3": tokens[3],
        "read_0": maps[0],
        "read_1": maps[1],
        "read_2": maps[2],
        "read_3": maps[3],
        "ref_feat": network.guess.fuse(maps),
        "ctx04_h": states[0],
        "ctx08_h": states[1],
        "ctx16_c": network.contexts[2](jax.nn.relu(maps[2])),
        "delta_flow": change,
        "depth_iter0": depth[..., None],
        "normal_iter0": normal,
    }
    return arrays, network.outputs(metric3d.upsample(*network.refine(states, contexts, flow)))


@functools.cache
def run_case(name: str, case: str) -> tuple[dict, tuple]:
    """Intermediate arrays and outputs for the input of a golden case."""
    image = jnp.asarray(golden_array(name, f"{case}/in/x"))
    return jax.device_get(run_stages(load_metric3d(name), image))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["small", "giant"])
def test_metric3d_equals_the_released_code_at_every_stage(name, stage):
    arrays, _ = run_case(name, "56x84")
    want = golden_array(name, f"56x84/mid/{stage}")
    if stage.endswith("_h"):
        want = np.tanh(want)
    atol = 1e-2 if "depth" in stage else 1e-4
    np.testing.assert_allclose(arrays[stage], want, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "name,case",
    [
        ("small", "56x84"),
        ("small", "70x98"),
        ("small", "60x100"),
        ("giant", "56x84"),
        ("vits", "56x84"),
    ],
)
def test_metric3d_has_the_outputs_of_the_released_code(name, case):
    _, (depth, confidence, normal) = run_case(name, case)
    wanted_depth = golden_array(name, f"{case}/out/depth")[..., 0]
    wanted_confidence = golden_array(name, f"{case}/out/confidence")[..., 0]
    wanted_normal = golden_array(name, f"{case}/out/prediction_normal")
    np.testing.assert_allclose(depth, wanted_depth, atol=1e-2, rtol=0)
    np.testing.assert_allclose(confidence, wanted_confidence, atol=1e-4, rtol=0)
    np.testing.assert_allclose(normal, wanted_normal, atol=1e-4, rtol=0)


def test_bin_depths_equal_the_released_code():
    want = golden("metric3d_small")["bins/out/anchors"]
    np.testing.assert_allclose(metric3d.bin_depths(CONFIGS["small"]), want, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_metric3d_rules_name_every_official_tensor_once_with_its_shape(name):
    shapes = json.loads(str(golden(f"metric3d_{name}")["recipe"]))["shapes"]
    params = flatten_params(abstract_params(CONFIGS[name]))
    rules = torch_names.metric3d_rules(CONFIGS[name])
    assert sorted(rule.ours for rule in rules) == sorted(params)
    named = []
    for rule in rules:
        shape = params[rule.ours].shape
        for key in torch_names.official_names(rule, shape):
            named.append(key)
            assert tuple(shapes[key]) == torch_names.official_shape(rule, shape), key
    unused = []
    for key in shapes:
        if any(re.search(pattern, key) for pattern in torch_names.UNUSED_TENSORS):
            unused.append(key)
    assert sorted(named + unused) == sorted(shapes)


@pytest.mark.parametrize("size,want", [((69, 85), (68, 96)), ((616, 1064), (616, 1064))])
def test_metric3d_keeps_the_size_only_of_multiples_of_28(size, want):
    network = nnx.eval_shape(lambda: metric3d.build(CONFIGS["small"], 0))
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    outputs = nnx.eval_shape(lambda network, x: network(x), network, image)
    depth, confidence, normal = outputs
    assert depth.shape == (2, *want)
    assert confidence.shape == (2, *want)
    assert normal.shape == (2, *want, 4)


def test_config_requires_multiples_of_28():
    with pytest.raises(UserError, match="multiples of 28"):
        Metric3DConfig(input_size=(616, 1050))


def test_enlarge_nearest_repeats_the_pixel_at_or_below_each_new_one():
    for height in (1, 2, 3, 4, 5, 6, 7, 8, 78, 79):  # the pattern repeats after 2 rows
        x = jnp.arange(height, dtype=jnp.float32).reshape(1, height, 1, 1)
        column = np.asarray(metric3d.enlarge_nearest(x))[0, :, 0, 0]
        np.testing.assert_array_equal(column, np.floor(np.arange(int(3.5 * height)) / 3.5))


def test_upsample_makes_convex_combinations():
    rng = np.random.default_rng(0)
    flow = jnp.asarray(rng.uniform(1, 2, (1, 5, 6, 3)), jnp.float32)
    mask = jnp.asarray(9 * rng.standard_normal((1, 5, 6, 144)), jnp.float32)
    fine = np.asarray(metric3d.upsample(flow, mask))
    assert fine.shape == (1, 20, 24, 3)
    assert fine.min() >= 0
    inside = fine[:, 4:-4, 4:-4]  # near the border zeros from outside take part
    assert inside.min() >= 1
    assert inside.max() <= 2


def test_upsample_repeats_pixels_whose_own_weight_is_1():
    flow = np.random.default_rng(0).uniform(1, 2, (1, 5, 6, 3)).astype(np.float32)
    mask = np.zeros((1, 5, 6, 9, 16), np.float32)
    mask[:, :, :, 4] = 400  # the centre of 3 x 3 pixels
    fine = metric3d.upsample(jnp.asarray(flow), jnp.asarray(mask.reshape(1, 5, 6, 144)))
    np.testing.assert_allclose(fine, flow.repeat(4, 1).repeat(4, 2), rtol=1e-6)


@pytest.mark.parametrize("height,width", [(61, 83), (289, 200), (559, 900), (30, 400), (700, 31)])
def test_prepare_fills_the_window_with_the_image_and_the_rest_with_the_mean(height, width):
    image = np.full((height, width, 3), 255, np.uint8)
    prepared, window = metric3d.prepare(image, (616, 1064))
    assert prepared.shape == (1, 616, 1064, 3)
    assert prepared.dtype == np.float32
    white = prepared[0].min(-1) > 2
    assert white[window].all()
    assert white.sum() == white[window].size
    np.testing.assert_allclose(prepared[0][~white], 0, atol=0.01)  # the mean, rounded to bytes


@pytest.mark.parametrize("height,width", [(289, 200), (559, 900)])
def test_prepare_truncates_heights_as_the_released_code(height, width):
    _, (rows, _) = metric3d.prepare(np.zeros((height, width, 3), np.uint8), (616, 1064))
    assert rows.stop - rows.start == 615
