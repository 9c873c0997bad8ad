"""A published checkpoint is recognised, with all of its sizes, from names and shapes alone."""

import numpy as np
import pytest
from helpers import seeded_weights as seeded

from urgt_jax.config import SIZES, Eval
from urgt_jax.errors import UserError
from urgt_jax.weights.detect import INFER_CONFIG, UserConfig, detect_family


def infer(name: str):
    """The configuration of a published model."""
    tensors = {}
    for key, shape in seeded.OFFICIAL_SHAPES[name].items():
        tensors[key] = np.broadcast_to(np.float32(0), shape)
    family, official, others = detect_family(tensors, name)
    assert not others
    return INFER_CONFIG[family](official, UserConfig({}, name))


def test_infer_refiner_recognises_the_published_size():
    config = infer("urgt_full")
    assert config.model == SIZES["large"]
    assert config.eval == Eval(grid=(8, 8), overlap=0.3, fidelity="official")


def test_infer_depth_anything_recognises_the_giant():
    config = infer("dav2_vitg")
    assert config.layers == (9, 19, 29, 39)
    assert config.vit.ffn == "swiglu" and config.vit.num_heads == 24


@pytest.mark.parametrize("size,iters", [("small", 4), ("large", 8), ("giant2", 8)])
def test_infer_metric3d_knows_the_number_of_refinements(size, iters):
    assert infer(f"metric3d_vit_{size}").iters == iters


def test_infer_metric3d_reads_the_quarters_of_the_giant():
    assert infer("metric3d_vit_giant2").layers == (9, 19, 29, 39)


def test_detect_family_removes_a_prefix_and_lists_other_tensors():
    tensors = {"net.cls_token": 1, "net.blocks.0.norm1.bias": 2, "step": 3}
    family, official, others = detect_family(tensors, "w.pth")
    assert family == "encoder"
    assert official == {"cls_token": 1, "blocks.0.norm1.bias": 2}
    assert others == ["step"]


def test_user_config_fills_defaults_and_lists_unrelated_fields():
    user_config = UserConfig({"num_heads": 3, "layers": [1, 2], "doc": "text", "depth": 2}, "w.pth")
    defaults = {"num_heads": None, "layers": (0, 1), "input_size": 518}
    values = user_config.resolve({"depth": 2}, defaults)
    assert values == {"depth": 2, "num_heads": 3, "layers": (1, 2), "input_size": 518}
    assert user_config.unused == ["doc"]


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_heads": 3, "depth": 4}, "sets depth to 4, but the tensors of w.pth have 2"),
        ({"num_head": 3}, "unknown field num_head; did you mean num_heads?"),
        ({"num_heads": -1}, "num_heads -1 is not a count"),
        ({"num_heads": True}, "num_heads True is not a count"),
        ({"num_heads": 3, "layers": []}, "is not a list of counts"),
        ({}, "set num_heads in --config F.json"),
    ],
)
def test_user_config_reports_wrong_fields(fields, message):
    with pytest.raises(UserError) as caught:
        UserConfig(fields, "w.pth").resolve({"depth": 2}, {"num_heads": None, "layers": (0, 1)})
    assert message in str(caught.value)
