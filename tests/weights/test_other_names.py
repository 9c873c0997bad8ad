"""The same random weights under every naming give the same weight file."""

import re
from functools import partial

import numpy as np
import pytest
from etils.epath import Path
from helpers.loopback_hub import TINY, official_file
from safetensors.numpy import load_file, save_file

from urgt_jax.config import Vit
from urgt_jax.errors import UserError
from urgt_jax.weights.convert import convert
from urgt_jax.weights.other_names import check_meaning

ENCODERS = {
    "plain": Vit(width=64, depth=2, num_heads=1, pretrain_size=42, registers=0),
    "registers": Vit(width=64, depth=2, num_heads=1, pretrain_size=42, registers=4),
    "swiglu": Vit(width=64, depth=2, num_heads=1, pretrain_size=42, registers=4, ffn="swiglu"),
}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Random official weights by the name of the model."""
    folder = Path(tmp_path_factory.mktemp("official"))
    arrays = {}
    for name, config in {**ENCODERS, "depth anything": TINY["depth_anything_s"]}.items():
        official_file(folder, config)
        arrays[name] = load_file(folder / "official.safetensors")
    return arrays


def hugging_face_encoder(arrays: dict, prefix: str = "") -> dict:
    """DINOv2 as transformers names it."""
    result = {}
    for name, x in arrays.items():
        if name == "pos_embed":
            name = "embeddings.position_embeddings"
        elif name in ("cls_token", "mask_token", "register_tokens"):
            name = f"embeddings.{name}"
        elif name.startswith("patch_embed.proj."):
            name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        elif name.startswith("norm."):
            name = f"layer{name}"
        elif ".attn.qkv." in name:
            layer, kind = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name).groups()
            for part, values in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                key = f"{prefix}encoder.layer.{layer}.attention.attention.{part}.{kind}"
                result[key] = np.ascontiguousarray(values)
            continue
        else:
            name = name.replace("blocks.", "encoder.layer.")
            name = name.replace("attn.proj", "attention.output.dense")
            name = re.sub(r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1", name)
            name = name.replace("mlp.w12", "mlp.weights_in").replace("mlp.w3", "mlp.weights_out")
        result[prefix + name] = x
    return result


def hugging_face_depth(arrays: dict) -> dict:
    """Depth Anything V2 as transformers names it."""
    encoder = {}
    result = {}
    for name, x in arrays.items():
        if name.startswith("pretrained."):
            encoder[name.removeprefix("pretrained.")] = x
            continue
        name = name.removeprefix("depth_head.")
        name = re.sub(r"^projects\.(\d)", r"neck.reassemble_stage.layers.\1.projection", name)
        name = re.sub(r"^resize_layers\.(\d)", r"neck.reassemble_stage.layers.\1.resize", name)
        name = re.sub(r"^scratch\.layer(\d)_rn", lambda m: f"neck.convs.{int(m[1]) - 1}", name)
        name = re.sub(
            r"^scratch\.refinenet(\d)", lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}", name
        )
        name = name.replace("out_conv", "projection")
        name = re.sub(r"resConfUnit(\d)\.conv(\d)", r"residual_layer\1.convolution\2", name)
        name = name.replace("scratch.output_conv1", "head.conv1")
        name = name.replace("scratch.output_conv2.0", "head.conv2")
        name = name.replace("scratch.output_conv2.2", "head.conv3")
        result[name] = x
    return result | hugging_face_encoder(encoder, "backbone.")


def timm_encoder(arrays: dict) -> dict:
    """DINOv2 as timm names it: with registers, the class token has its position added."""
    result = {name: x for name, x in arrays.items() if name != "mask_token"}
    if "register_tokens" in result:
        result["reg_token"] = result.pop("register_tokens")
        result["cls_token"] = result["cls_token"] + result["pos_embed"][:, :1]
        result["pos_embed"] = np.ascontiguousarray(result["pos_embed"][:, 1:])
    return {
        name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): x
        for name, x in result.items()
    }


def chunked(arrays: dict) -> dict:
    """DINOv2 as sharded training stores it: blocks in chunks."""
    return {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name): x for name, x in arrays.items()}


def converted(folder: Path, arrays: dict, **options) -> dict[str, np.ndarray]:
    """The tensors of the weight file."""
    save_file(arrays, folder / "source.safetensors")
    convert(folder / "source.safetensors", folder / "target.safetensors", **options)
    tensors = load_file(folder / "target.safetensors")
    return {name: x for name, x in tensors.items() if not name.startswith("unused.")}


NAMINGS = {
    "transformers": hugging_face_encoder,
    "transformers with a prefix": partial(hugging_face_encoder, prefix="dinov2."),
    "timm": timm_encoder,
    "chunks": chunked,
}


@pytest.mark.parametrize("model", ENCODERS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_convert_reads_dinov2_under_every_naming(tmp_path, official, model, naming):
    expected = converted(tmp_path, official[model])
    result = converted(tmp_path, NAMINGS[naming](official[model]))
    assert result.keys() == expected.keys()
    if naming == "timm" and "registers" in expected:
        for weights in (expected, result):
            weights["cls"] = weights["cls"] + weights["positions"][:, :1]
            weights["positions"] = weights["positions"][:, 1:]
    for name, x in expected.items():
        np.testing.assert_array_equal(result[name], x, err_msg=name)


def test_convert_reads_depth_anything_of_transformers(tmp_path, official):
    arrays = official["depth anything"]
    expected = converted(tmp_path, arrays)
    result = converted(tmp_path, hugging_face_depth(arrays))
    assert result.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(result[name], x, err_msg=name)


def test_convert_asks_which_of_several_models_to_take(tmp_path, official):
    arrays = official["plain"]
    both = {f"student.backbone.{name}": x for name, x in arrays.items()}
    both |= {f"teacher.backbone.{name}": 2 * x for name, x in arrays.items()}
    message = r"holds the model 2 times \(student, teacher\). Choose one with --take NAME"
    with pytest.raises(UserError, match=message):
        converted(tmp_path, both)
    with pytest.raises(UserError, match="--take ema chooses none of the models .*: student, t"):
        converted(tmp_path, both, take="ema")
    teacher = converted(tmp_path, both, take="teacher")
    np.testing.assert_array_equal(teacher["cls"], 2 * arrays["cls_token"])


def test_convert_names_what_tells_several_models_apart(tmp_path, official):
    arrays = official["plain"]
    both = {f"state_dict.student.{name}": x for name, x in arrays.items()}
    both |= {f"state_dict.teacher.{name}": 2 * x for name, x in arrays.items()}
    for take in ("", "state_dict"):
        with pytest.raises(UserError, match=r"holds the model 2 times \(student, teacher\)"):
            converted(tmp_path, both, take=take)
    with pytest.raises(UserError, match="--take ema chooses none of the models .*: student, t"):
        converted(tmp_path, both, take="ema")
    teacher = converted(tmp_path, both, take="teacher")
    np.testing.assert_array_equal(teacher["cls"], 2 * arrays["cls_token"])


def test_convert_takes_the_average_or_the_model_itself(tmp_path, official):
    arrays = official["plain"]
    both = arrays | {f"ema.{name}": 2 * x for name, x in arrays.items()}
    for take, factor in (("model", 1), ("ema", 2)):
        result = converted(tmp_path, both, take=take)
        np.testing.assert_array_equal(result["cls"], factor * arrays["cls_token"])


@pytest.mark.parametrize(
    "name,title",
    [
        ("rope_embed.periods", "DINOv3"),
        ("storage_tokens", "DINOv3"),
        ("layer.0.attention.q_proj.weight", "DINOv3"),
        ("model.cam_enc.fc.weight", "Depth Anything 3"),
        ("encoder.patch_encoder.cls_token", "Depth Pro"),
    ],
)
def test_convert_names_siblings(tmp_path, name, title):
    arrays = {"cls_token": np.zeros((1, 1, 64), np.float32), name: np.zeros(4, np.float32)}
    with pytest.raises(UserError, match=f"source.safetensors is {title}, which URGT does not use"):
        converted(tmp_path, arrays)


def test_convert_names_tokens_of_another_size(tmp_path, official):
    arrays = official["plain"] | {"patch_embed.proj.weight": np.zeros((64, 3, 16, 16), np.float32)}
    with pytest.raises(UserError, match="tokens of 16 x 16 pixels, so it is none of DINOv2"):
        converted(tmp_path, arrays)


@pytest.mark.parametrize(
    "file,message",
    [
        ("depth_anything_v2_metric_hypersim_vits.pth", "for metric depth, judging by its name"),
        ("Depth-Anything-V2-Metric-Indoor-Small-hf/model.safetensors", "for metric depth"),
        ("depth_anything_vits14.pth", "version 1 of Depth Anything, judging by its name"),
        ("depth_anything_v2_vits.pth", ""),
        ("metric3d/depth_anything_v2_vitl.pth", ""),
        ("model.safetensors", ""),
    ],
)
def test_check_meaning_looks_at_the_name(file, message):
    path = Path("weights") / file
    check_meaning("encoder", path)
    if not message:
        check_meaning("depth_anything", path)
        return
    with pytest.raises(UserError, match=message):
        check_meaning("depth_anything", path)


def test_errors_about_hundreds_of_tensors_stay_short(tmp_path, official):
    arrays = official["depth anything"]
    kept = {name: x for name, x in arrays.items() if ".mlp." not in name}
    kept |= {f"pretrained.{'x' * 60}{i}": np.zeros(1, np.float32) for i in range(300)}
    with pytest.raises(UserError, match="300 unexpected") as caught:
        converted(tmp_path, kept)
    assert len(str(caught.value)) - len(str(tmp_path)) < 300
