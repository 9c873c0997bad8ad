"""The DPT head of the refiner against arrays of the released code."""

import jax.numpy as jnp
from flax import nnx
from helpers import seeded_weights
from helpers.parity import assert_close, channels_last, golden, load_network, load_official

from urgt_jax.config import TOKEN_SIZE
from urgt_jax.models.dpt import DPTHead
from urgt_jax.weights import torch_names


def test_dpt_head_equals_the_released_code_stage_by_stage():
    want = golden("urgt_head")
    case = "n_s2_nonsq"
    _, config = load_network("urgt_network")
    rules = []
    for rule in torch_names.refiner_rules(config):
        if rule.theirs.startswith("normal_head."):
            theirs = rule.theirs.removeprefix("normal_head.")
            ours = rule.ours.removeprefix("normal_head.")
            rules.append(rule._replace(theirs=theirs, ours=ours))

    def build():
        return DPTHead(config.model, 3, nnx.Rngs(0))

    head = load_official(build, rules, seeded_weights.state(want, "sd_normal/"))
    tokens = [jnp.asarray(want[f"{case}/in/tokens{i}"][0, :, 5:]) for i in range(4)]
    height, width = want[f"{case}/in/image_hw"]
    rows = int(height) // TOKEN_SIZE
    cols = int(width) // TOKEN_SIZE
    levels = head.pyramid.reassemble([head.norm(x) for x in tokens], rows, cols)
    path = head.pyramid.fuse(levels)
    assert_close(path, channels_last(want[f"{case}/mid/refinenet1"]))
    assert_close(head.pyramid.smooth(path), channels_last(want[f"{case}/mid/output_conv1"]))
    value, confidence = head(tokens, rows, cols)
    assert_close(value, want[f"{case}/out/preds"][0])
    assert_close(confidence, want[f"{case}/out/conf"][0])
