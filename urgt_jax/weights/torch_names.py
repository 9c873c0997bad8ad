"""PyTorch names and layouts of the published models against ours, as tables of rules.

A rule says which official tensors a parameter of ours is made of. `{}` in their name counts the
blocks that ours stacks on a first axis. Tables serve both ways.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from urgt_jax.config import TOKEN_SIZE, Config, Vit
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig


class Rule(NamedTuple):
    """One parameter: their name, ours, and how the layout changes."""

    theirs: str
    ours: str
    form: str = "same"


class Form(NamedTuple):
    """A change of layout, there and back, bit for bit."""

    there: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]  # theirs from ours


def _spread(k: int) -> Form:
    """A transposed convolution [in, out, k, k] as a map from a pixel to its k x k new ones."""

    def there(x):
        return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1)

    def back(x):
        return x.reshape(x.shape[0], k, k, -1).transpose(0, 3, 1, 2)

    return Form(there, back, lambda s: (s[0], s[1] // (k * k), k, k))


FORMS: dict[str, Form] = {
    "same": Form(lambda x: x, lambda x: x, lambda s: s),
    "linear": Form(lambda x: x.T, lambda x: x.T, lambda s: s[::-1]),
    "point": Form(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None],
                  lambda s: (s[1], s[0], 1, 1)),
    "conv": Form(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1),
                 lambda s: (s[3], s[2], s[0], s[1])),
    "token": Form(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
                  lambda x: x.reshape(TOKEN_SIZE, TOKEN_SIZE, -1, x.shape[1]).transpose(3, 2, 0, 1),
                  lambda s: (s[1], s[0] // TOKEN_SIZE**2, TOKEN_SIZE, TOKEN_SIZE)),
    "camera": Form(lambda x: x[0], lambda x: x[None], lambda s: (1, *s)),
    "upsample2": _spread(2),
    "upsample4": _spread(4),
}  # fmt: skip


def affine_rules(theirs: str, ours: str, form: str, weight: str = "kernel") -> list[Rule]:
    """Weight and bias of one layer."""
    return [
        Rule(f"{theirs}.weight", f"{ours}.{weight}", form),
        Rule(f"{theirs}.bias", f"{ours}.bias"),
    ]


def _block(theirs: str, ours: str, ffn: str, qk_norm: bool) -> list[Rule]:
    """A transformer block, stacked over the index in their name."""
    rules = []
    for name in ("norm1", "norm2", *(("attn.q_norm", "attn.k_norm") if qk_norm else ())):
        rules += affine_rules(f"{theirs}.{name}", f"{ours}.{name}", "same", "scale")
    layers = ("mlp.fc1", "mlp.fc2") if ffn == "mlp" else ("mlp.w12", "mlp.w3")
    for name in ("attn.qkv", "attn.proj", *layers):
        rules += affine_rules(f"{theirs}.{name}", f"{ours}.{name}", "linear")
    rules += [Rule(f"{theirs}.ls{i}.gamma", f"{ours}.scale{i}") for i in (1, 2)]
    return rules


def vit_rules(c: Vit, theirs: str, ours: str, block: str = "blocks.{}", priors=False) -> list[Rule]:
    """A vision transformer; both prefixes end with a point or are empty."""
    rules = [
        Rule(f"{theirs}cls_token", f"{ours}cls"),
        Rule(f"{theirs}pos_embed", f"{ours}positions"),
        *affine_rules(f"{theirs}patch_embed.proj", f"{ours}image.proj", "token"),
        *affine_rules(f"{theirs}norm", f"{ours}norm", "same", "scale"),
        *_block(f"{theirs}{block}", f"{ours}blocks", c.ffn, qk_norm=False),
    ]
    if c.registers:
        rules.append(Rule(f"{theirs}register_tokens", f"{ours}registers"))
    for kind in ("depth", "normal") if priors else ():
        rules += affine_rules(f"{theirs}patch_embed_{kind}.proj", f"{ours}{kind}.proj", "token")
    return rules


def _pyramid(theirs: str, ours: str) -> list[Rule]:
    """DPT's levels and their fusion."""
    scratch = f"{theirs}scratch."
    rules = [
        *affine_rules(f"{theirs}resize_layers.0", f"{ours}upsample4", "upsample4"),
        *affine_rules(f"{theirs}resize_layers.1", f"{ours}upsample2", "upsample2"),
        *affine_rules(f"{theirs}resize_layers.3", f"{ours}halve", "conv"),
        *affine_rules(f"{scratch}output_conv1", f"{ours}smooth", "conv"),
        *affine_rules(f"{scratch}output_conv2.0", f"{ours}detail", "conv"),
        *affine_rules(f"{scratch}output_conv2.2", f"{ours}last", "point"),
    ]
    for i in range(4):
        fusion, mine = f"{scratch}refinenet{i + 1}.", f"{ours}fusions.{i}."
        rules += affine_rules(f"{theirs}projects.{i}", f"{ours}projects.{i}", "point")
        rules.append(Rule(f"{scratch}layer{i + 1}_rn.weight", f"{ours}levels.{i}.kernel", "conv"))
        rules += affine_rules(f"{fusion}out_conv", f"{mine}out", "point")
        units = {"resConfUnit2": "both"} | ({"resConfUnit1": "level"} if i < 3 else {})
        for unit, name in units.items():
            for conv in ("conv1", "conv2"):
                rules += affine_rules(f"{fusion}{unit}.{conv}", f"{mine}{name}.{conv}", "conv")
    return rules


def refiner_rules(c: Config) -> list[Rule]:
    """URGT's joint model, or one of its halves."""
    rules = [
        Rule("aggregator.camera_token", "camera", "camera"),
        Rule("aggregator.register_token", "registers", "camera"),
        *vit_rules(c.model.encoder, "aggregator.patch_embed.", "encoder.", priors=True),
        *_block("aggregator.frame_blocks.{}", "within_patch", "mlp", qk_norm=True),
        *_block("aggregator.global_blocks.{}", "across_patches", "mlp", qk_norm=True),
    ]
    for kind in c.model.outputs:
        rules += affine_rules(f"{kind}_head.norm", f"{kind}_head.norm", "same", "scale")
        rules += _pyramid(f"{kind}_head.", f"{kind}_head.pyramid.")
    return rules


def depth_anything_rules(c: DepthAnythingConfig) -> list[Rule]:
    """Depth Anything V2."""
    return [*vit_rules(c.vit, "pretrained.", "vit."), *_pyramid("depth_head.", "pyramid.")]


def encoder_rules(c: Vit) -> list[Rule]:
    """DINOv2 alone."""
    return vit_rules(c, "", "")


def metric3d_rules(c: Metric3DConfig) -> list[Rule]:
    """Metric3D v2."""
    decoder = "depth_model.decoder."
    return [
        *vit_rules(c.vit, "depth_model.encoder.", "vit.", block="blocks.0.{}"),
        *_reassembly(f"{decoder}token2feature."),
        *_guess(decoder),
        *_contexts(decoder),
        *_update(f"{decoder}update_block."),
    ]


def _reassembly(theirs: str) -> list[Rule]:
    """Metric3D's maps from tokens."""
    rules = []
    for i in range(4):
        read, mine = f"{theirs}read_{i}.readoper.project_", f"reassembly.reads.{i}."
        rules += affine_rules(f"{read}patch", f"{mine}patch", "linear")
        rules.append(Rule(f"{read}learn.weight", f"{mine}special.kernel", "linear"))
    rules += affine_rules(f"{theirs}read_0.sample.0", "reassembly.finest", "point")
    return rules + affine_rules(f"{theirs}read_1.sample", "reassembly.upsample", "upsample2")


def _guess(theirs: str) -> list[Rule]:
    """Metric3D's fusion and first guess."""
    rules = []
    for i in range(3):
        fuse, mine = f"{theirs}decoder_mono.upconv_{i + 1}.", f"guess.fuses.{i}."
        rules += affine_rules(f"{fuse}out_conv", f"{mine}out", "point")
        for way in ("trunk", "branch") if i < 2 else ("trunk",):
            for conv in ("conv1", "conv2"):
                rules += affine_rules(f"{fuse}way_{way}.{conv}", f"{mine}{way}.{conv}", "conv")
    for head, mine, count in (("depth_regressor", "depth", 2), ("normal_predictor", "normal", 4)):
        for i in range(count):  # every other layer of theirs is a ReLU
            form = "point" if i else "conv"
            rules += affine_rules(f"{theirs}{head}.{2 * i}", f"guess.{mine}.{i}", form)
    return rules


def _contexts(theirs: str) -> list[Rule]:
    """Metric3D's context encoder."""
    rules = []
    for i, scale in enumerate(("04", "08", "16")):
        for j, mine in enumerate((f"states.{i}", f"contexts.{i}")):
            context = f"{theirs}context_feature_encoder.outputs{scale}.{j}."
            rules += affine_rules(f"{context}1", f"{mine}.out", "conv")
            rules += affine_rules(f"{context}0.downsample.0", f"{mine}.skip", "point")
            for norm in ("norm1", "norm2"):
                rules += affine_rules(f"{context}0.{norm}", f"{mine}.{norm}", "same", "scale")
            # It is stored twice, and torch loads this name last.
            rules += affine_rules(f"{context}0.downsample.1", f"{mine}.norm3", "same", "scale")
            for conv in ("conv1", "conv2"):
                rules += affine_rules(f"{context}0.{conv}", f"{mine}.{conv}", "conv")
        rules += affine_rules(f"{theirs}context_zqr_convs.{i}", f"gates.{i}", "conv")
    return rules


def _update(theirs: str) -> list[Rule]:
    """Metric3D's recurrent units and their heads."""
    rules = []
    for i, scale in enumerate(("08", "16", "32")):
        for gate in "zrq":
            rules += affine_rules(
                f"{theirs}gru{scale}.conv{gate}", f"update.grus.{i}.{gate}", "conv"
            )
    for i in (1, 2):
        rules += affine_rules(f"{theirs}flow_head.conv{i}d", f"update.depth.{i - 1}", "conv")
        rules += affine_rules(f"{theirs}flow_head.conv{i}n", f"update.normal.{i - 1}", "conv")
    rules += affine_rules(f"{theirs}mask.0", "update.mask.0", "conv")
    return rules + affine_rules(f"{theirs}mask.2", "update.mask.1", "point")


# Official tensors that no output depends on. They travel along, so that the way back is whole.
UNUSED_TENSORS = (
    r"(^|\.)mask_token$",  # of DINOv2's training
    r"^depth_head\.scratch\.refinenet4\.resConfUnit1\.",  # Depth Anything's deepest level is alone
    r"\.context_feature_encoder\..*\.norm3\.",  # Metric3D's second name for downsample.1
)
DROPPED = (r"^(camera|point|track)_head\.",)  # VGGT's, which URGT lacks


def unused(config) -> dict[str, tuple[int, ...]]:
    """Official tensors without use that a strict loader asks for, by name, with their shapes."""
    if isinstance(config, Config):
        return {"aggregator.patch_embed.mask_token": (1, config.model.width)}
    return {"mask_token": (1, config.width)} if isinstance(config, Vit) else {}


def official_names(rule: Rule, shape: tuple[int, ...]) -> list[str]:
    """The official tensors of a parameter of this shape."""
    return (
        [rule.theirs.format(i) for i in range(shape[0])] if "{}" in rule.theirs else [rule.theirs]
    )


def official_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each official tensor of a parameter of this shape."""
    return FORMS[rule.form].shape(shape[1:] if "{}" in rule.theirs else shape)


def gather(rule: Rule, shape: tuple[int, ...], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Our parameter from the official tensors."""
    there, names = FORMS[rule.form].there, official_names(rule, shape)
    if "{}" not in rule.theirs:
        return np.ascontiguousarray(there(read(names[0])))
    whole = None
    for i, name in enumerate(names):
        part = there(read(name))
        whole = np.empty((len(names), *part.shape), part.dtype) if whole is None else whole
        whole[i] = part
    return whole


RULES: dict[str, Callable[..., list[Rule]]] = {
    "refiner": refiner_rules,
    "encoder": encoder_rules,
    "depth_anything": depth_anything_rules,
    "metric3d": metric3d_rules,
}
