"""Published weights under the names of other libraries, and siblings with other contents.

Hugging Face transformers, timm and sharded training store the same numbers under names of their
own. Here they get the official names, which `torch_names` knows.
"""

import math
import re
from collections.abc import Mapping
from functools import partial

import numpy as np
from etils.epath import Path

from urgt_jax.config import TOKEN_SIZE
from urgt_jax.errors import UserError, require
from urgt_jax.weights.tensors import Tensor, tensor_of

KNOWN = "DINOv2, VGGT, URGT, Depth Anything V2 and Metric3D v2"
# Names that only models have that URGT does not use.
SIBLINGS = {
    r"rope_embed\.periods$|(^|\.)storage_tokens$|\.attention\.q_proj\.weight$": "DINOv3",
    r"(^|\.)cam_(enc|dec)\.|backbone\.pretrained\.camera_token$": "Depth Anything 3",
    r"(^|\.)patch_encoder\.": "Depth Pro",
    r"(^|\.)points_head\.": "MoGe",
    r"(^|\.)pixel_(encoder|decoder)\.": "UniDepth",
    r"(^|\.)vision_model\.": "CLIP or SigLIP",
    r"(^|\.)image_encoder\.": "SAM",
    r"(^|\.)pretrained\.model\.blocks\.": "MiDaS, DPT or ZoeDepth",
}
# Files with the tensors of Depth Anything V2, and another meaning.
V2_METRIC = re.compile(r"v2[-_]metric", re.IGNORECASE)
VERSION_1 = re.compile(
    r"depth[-_]anything[-_](vit[sblg]|small|base|large)|liheyoung", re.IGNORECASE
)

# Hugging Face's names of DINOv2, after any prefix.
HF_MARK = "embeddings.position_embeddings"
HF_ENCODER = (
    (r"(^|\.)embeddings\.position_embeddings$", r"\1pos_embed"),
    (r"(^|\.)embeddings\.(cls_token|mask_token|register_tokens)$", r"\1\2"),
    (r"(^|\.)embeddings\.patch_embeddings\.projection\.", r"\1patch_embed.proj."),
    (r"(^|\.)encoder\.layer\.(\d+)\.", r"\1blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"(^|\.)layernorm\.", r"\1norm."),
)
# Hugging Face's names of Depth Anything V2. It counts the fusions from the deepest level.
HF_DEPTH_MARK = "neck.reassemble_stage."
HF_DEPTH = (
    (r"^backbone\.", "pretrained."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"depth_head.projects.\1."),
    (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"depth_head.resize_layers.\1."),
    *((rf"^neck\.convs\.{i}\.", f"depth_head.scratch.layer{i + 1}_rn.") for i in range(4)),
    *(
        (rf"^neck\.fusion_stage\.layers\.{i}\.", f"depth_head.scratch.refinenet{4 - i}.")
        for i in range(4)
    ),
    (r"\.residual_layer(\d)\.convolution(\d)\.", r".resConfUnit\1.conv\2."),
    (r"(refinenet\d)\.projection\.", r"\1.out_conv."),
    (r"^head\.conv1\.", "depth_head.scratch.output_conv1."),
    (r"^head\.conv2\.", "depth_head.scratch.output_conv2.0."),
    (r"^head\.conv3\.", "depth_head.scratch.output_conv2.2."),
)


def official_names(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors under official names; a UserError for a model that URGT does not use."""
    for pattern, title in SIBLINGS.items():
        require(
            not any(re.search(pattern, name) for name in tensors),
            f"{where} is {title}, which URGT does not use. It takes {KNOWN}",
        )
    result = dict(tensors)
    if any(name.endswith(HF_MARK) for name in result):
        rules = HF_ENCODER
        if any(HF_DEPTH_MARK in name for name in result):
            rules = HF_DEPTH + HF_ENCODER
        result = _merge_attention(_rename(result, rules))
    if not any("depth_model." in name for name in result):  # Metric3D v2 is stored with chunks
        result = _rename(result, ((r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2."),))
    result = _from_timm(result)
    for name, tensor in result.items():
        if name.endswith("patch_embed.proj.weight") and len(tensor.shape) == 4:
            side = tensor.shape[-1]
            require(
                side == TOKEN_SIZE,
                f"{where} has tokens of {side} x {side} pixels, so it is none of {KNOWN}",
            )
    return result


def _rename(tensors: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _merge_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one tensor, as the official weights store them."""
    merged = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*\.attn\.)(query|key|value)(\.\w+)", name)
        if match is None:
            merged[name] = tensor
        elif match[2] == "query":
            names = [f"{match[1]}{part}{match[3]}" for part in ("query", "key", "value")]
            parts = [tensors[part] for part in names if part in tensors]
            shape = (sum(part.shape[0] for part in parts), *tensor.shape[1:])
            read = partial(_concatenate, parts, 0)
            merged[f"{match[1]}qkv{match[3]}"] = Tensor(shape, tensor.dtype, read)
    return merged


def _from_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names of registers and of SwiGLU.

    With registers, timm adds the position of the class token to the token itself, so that its
    position is 0 here.
    """
    result = {}
    for name, tensor in tensors.items():
        if name.endswith("reg_token"):
            name = name.removesuffix("reg_token") + "register_tokens"
        result[name] = tensor
    for name, tensor in tensors.items():
        if not name.endswith("pos_embed") or len(tensor.shape) != 3:
            continue
        count = tensor.shape[1]
        has_no_class = math.isqrt(count) ** 2 == count
        if has_no_class and f"{name.removesuffix('pos_embed')}reg_token" in tensors:
            shape = (1, count + 1, tensor.shape[2])
            first = tensor_of(np.zeros((1, 1, tensor.shape[2]), tensor.dtype))
            result[name] = Tensor(shape, tensor.dtype, partial(_concatenate, [first, tensor], 1))
    swiglu = {}
    for name, tensor in result.items():
        match = re.fullmatch(r"(.*\.mlp\.)fc([12])(\.\w+)", name)
        if match is not None and _is_swiglu(result, match[1]):
            name = f"{match[1]}{'w12' if match[2] == '1' else 'w3'}{match[3]}"
        swiglu[name] = tensor
    return swiglu


def _is_swiglu(tensors: Mapping[str, Tensor], mlp: str) -> bool:
    """Whether the first layer of an MLP has twice the channels that the second one takes."""
    first = tensors.get(f"{mlp}fc1.weight")
    second = tensors.get(f"{mlp}fc2.weight")
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _concatenate(parts: list[Tensor], axis: int) -> np.ndarray:
    return np.concatenate([part.read() for part in parts], axis)


def check_meaning(kind: str, source: Path) -> None:
    """Fail for weights of other models that have the tensors of Depth Anything V2.

    Only the name of the file or of its folder shows what they are.
    """
    if kind != "depth_anything":
        return
    text = str(source)
    advice = "Use Depth Anything V2 for relative depth, or rename the file if it is that"
    if V2_METRIC.search(text):
        raise UserError(
            f"{source} is Depth Anything V2 for metric depth, judging by its name. {advice}"
        )
    if VERSION_1.search(text) and "v2" not in text.lower():
        raise UserError(f"{source} is version 1 of Depth Anything, judging by its name. {advice}")
