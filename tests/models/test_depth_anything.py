"""Depth Anything V2 against arrays of the released code."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity import assert_close, channels_last, golden, load_network

from urgt_jax.images.resize import resize_corners
from urgt_jax.models import depth_anything


def test_depth_anything_equals_the_released_code():
    want = golden("depth_anything")
    network, _ = load_network("depth_anything")
    image = jnp.asarray(channels_last(want["fwd_56x98/in/x"]))
    layers = network.vit.intermediate_layers(network.vit.embed(image), network.config.layers)
    tokens = [network.vit.norm(x)[:, 1:] for x in layers]
    levels = network.pyramid.reassemble(tokens, 4, 7)
    path = network.pyramid.fuse(levels)
    assert_close(path, channels_last(want["fwd_56x98/mid/path_1"]))
    assert_close(network(image), want["fwd_56x98/out/depth"][:, 0])


@pytest.mark.parametrize("case", ["infer_61x83_70", "infer_97x53_84"])
def test_depth_anything_equals_the_released_code_from_image_to_map(case):
    want = golden("depth_anything")
    network, _ = load_network("depth_anything")
    image = want[f"{case}/in/image_bgr"][..., ::-1]
    prepared = depth_anything.prepare(image, int(want[f"{case}/in/input_size"]))
    np.testing.assert_array_equal(prepared, channels_last(want[f"{case}/mid/tensor"]))
    disparity = np.asarray(network(jnp.asarray(prepared)))
    disparity = resize_corners(disparity[0], *image.shape[:2])
    assert_close(disparity, want[f"{case}/out/depth"])


def test_depth_anything_equals_the_released_code_at_its_small_size():
    want = golden("depth_anything_vits")
    network, config = load_network("depth_anything_vits")
    assert config.vit.num_heads == 6
    assert config.layers == (2, 5, 8, 11)
    image = jnp.asarray(channels_last(want["fwd_84x112/in/x"]))
    assert_close(network(image), want["fwd_84x112/out/depth"][:, 0])


def test_input_size_equals_the_released_code():
    want = golden("depth_anything")
    sizes = zip(want["resize518/in/hw"], want["resize518/out/wh"], strict=True)
    for (height, width), (new_width, new_height) in sizes:
        size = depth_anything.input_size(int(height), int(width), 518)
        assert size == (new_height, new_width)
