"""DINOv2 against arrays of the released code."""

import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import seeded_weights
from helpers.parity import Shape, assert_close, channels_last, golden, load_official

from urgt_jax.models.vit import VisionTransformer
from urgt_jax.weights import detect, torch_names


@pytest.mark.parametrize(
    "name,case,priors",
    [
        ("dinov2_registers", "42x42", True),
        ("dinov2_registers", "56x98", True),
        ("dinov2_plain", "56x98", False),
        ("dinov2_swiglu", "56x98", False),
    ],
)
def test_vit_equals_the_released_dinov2(name, case, priors):
    """With and without registers, MLP and SwiGLU, both ways to resample positions."""
    want = golden(name)
    official = seeded_weights.state(want)
    shapes = {key: Shape(x.shape) for key, x in official.items()}
    user_config = detect.UserConfig(seeded_weights.settings(want), name)
    config = detect.infer_encoder(shapes, user_config)
    rules = torch_names.vit_rules(config, "", "", priors=priors)

    def build():
        return VisionTransformer(config, jnp.float32, nnx.Rngs(0), priors=priors)

    network = load_official(build, rules, official)
    inputs = [channels_last(want[f"{case}/in/image"])]
    if priors:
        inputs.append(want[f"{case}/in/depth_prior"][:, 0])
        inputs.append(channels_last(want[f"{case}/in/normal_prior"]))
    inputs = [jnp.asarray(x) for x in inputs]
    tokens = network.embed(*inputs)
    assert_close(tokens, want[f"{case}/mid/tokens0"])
    first, second = network.intermediate_layers(tokens, (1, 2))
    assert_close(first, want[f"{case}/mid/block1"])
    assert_close(second, want[f"{case}/mid/block2"])
    assert_close(network(*inputs), want[f"{case}/out/x_norm_patchtokens"])
