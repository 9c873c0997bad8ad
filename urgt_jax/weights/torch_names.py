"""PyTorch names and layouts of the published models against ours, as tables of rules.

A rule says which official tensors a parameter of ours is made of. `{}` in an official name stands
for the number of a block; our parameter stacks these blocks along its first axis. The same tables
serve both directions.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from urgt_jax.config import TOKEN_SIZE, Config, Vit
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import FileConfig


class Rule(NamedTuple):
    """One parameter: its official name, ours, and how its axes are laid out."""

    theirs: str
    ours: str
    layout: str = "same"

    @property
    def is_stacked(self) -> bool:
        """Whether our parameter stacks those of several official blocks."""
        return "{}" in self.theirs


class Layout(NamedTuple):
    """How the axes of a parameter change. No number changes, so both directions are exact."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_official: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _transpose(x: np.ndarray) -> np.ndarray:
    return x.T


def _pointwise_to_ours(x: np.ndarray) -> np.ndarray:
    return x[:, :, 0, 0].T


def _pointwise_to_official(x: np.ndarray) -> np.ndarray:
    return x.T[:, :, None, None]


def _conv_to_ours(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0)


def _conv_to_official(x: np.ndarray) -> np.ndarray:
    return x.transpose(3, 2, 0, 1)


def _token_to_ours(x: np.ndarray) -> np.ndarray:
    """The embedding of a token is a convolution in PyTorch and a matrix here."""
    return _conv_to_ours(x).reshape(-1, x.shape[0])


def _token_to_official(x: np.ndarray) -> np.ndarray:
    width = x.shape[1]
    return _conv_to_official(x.reshape(TOKEN_SIZE, TOKEN_SIZE, -1, width))


def _without_batch(x: np.ndarray) -> np.ndarray:
    return x[0]


def _with_batch(x: np.ndarray) -> np.ndarray:
    return x[None]


def _upsample_to_ours(x: np.ndarray) -> np.ndarray:
    """A transposed convolution [in, out, k, k] maps a pixel to k x k new ones."""
    return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1)


def _upsample2_to_official(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], 2, 2, -1).transpose(0, 3, 1, 2)


def _upsample4_to_official(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0], 4, 4, -1).transpose(0, 3, 1, 2)


LAYOUTS: dict[str, Layout] = {
    "same": Layout(_same, _same),
    "linear": Layout(_transpose, _transpose),
    "pointwise": Layout(_pointwise_to_ours, _pointwise_to_official),
    "conv": Layout(_conv_to_ours, _conv_to_official),
    "token": Layout(_token_to_ours, _token_to_official),
    "unbatched": Layout(_without_batch, _with_batch),
    "upsample2": Layout(_upsample_to_ours, _upsample2_to_official),
    "upsample4": Layout(_upsample_to_ours, _upsample4_to_official),
}


def affine_rules(theirs: str, ours: str, layout: str) -> list[Rule]:
    """Kernel and bias of one layer."""
    return [
        Rule(f"{theirs}.weight", f"{ours}.kernel", layout),
        Rule(f"{theirs}.bias", f"{ours}.bias"),
    ]


def norm_rules(theirs: str, ours: str) -> list[Rule]:
    """Scale and bias of one normalisation."""
    return [
        Rule(f"{theirs}.weight", f"{ours}.scale"),
        Rule(f"{theirs}.bias", f"{ours}.bias"),
    ]


def _block_rules(theirs: str, ours: str, ffn: str, qk_norm: bool) -> list[Rule]:
    """A transformer block, stacked over the number in its official name."""
    norms = ["norm1", "norm2"]
    if qk_norm:
        norms += ["attn.q_norm", "attn.k_norm"]
    layers = ["attn.qkv", "attn.proj"]
    if ffn == "mlp":
        layers += ["mlp.fc1", "mlp.fc2"]
    else:
        layers += ["mlp.w12", "mlp.w3"]
    rules = []
    for name in norms:
        rules += norm_rules(f"{theirs}.{name}", f"{ours}.{name}")
    for name in layers:
        rules += affine_rules(f"{theirs}.{name}", f"{ours}.{name}", "linear")
    rules.append(Rule(f"{theirs}.ls1.gamma", f"{ours}.scale1"))
    rules.append(Rule(f"{theirs}.ls2.gamma", f"{ours}.scale2"))
    return rules


def vit_rules(
    config: Vit, theirs: str, ours: str, block: str = "blocks.{}", priors: bool = False
) -> list[Rule]:
    """A vision transformer. Both prefixes end with a point or are empty."""
    rules = [Rule(f"{theirs}cls_token", f"{ours}cls")]
    rules.append(Rule(f"{theirs}pos_embed", f"{ours}positions"))
    rules += affine_rules(f"{theirs}patch_embed.proj", f"{ours}image.proj", "token")
    rules += norm_rules(f"{theirs}norm", f"{ours}norm")
    rules += _block_rules(f"{theirs}{block}", f"{ours}blocks", config.ffn, qk_norm=False)
    if config.registers:
        rules.append(Rule(f"{theirs}register_tokens", f"{ours}registers"))
    if priors:
        for kind in ("depth", "normal"):
            rules += affine_rules(f"{theirs}patch_embed_{kind}.proj", f"{ours}{kind}.proj", "token")
    return rules


def _dpt_rules(theirs: str, ours: str) -> list[Rule]:
    """The levels of DPT and their fusion."""
    scratch = f"{theirs}scratch."
    rules = affine_rules(f"{theirs}resize_layers.0", f"{ours}upsample4", "upsample4")
    rules += affine_rules(f"{theirs}resize_layers.1", f"{ours}upsample2", "upsample2")
    rules += affine_rules(f"{theirs}resize_layers.3", f"{ours}halve", "conv")
    rules += affine_rules(f"{scratch}output_conv1", f"{ours}smooth", "conv")
    rules += affine_rules(f"{scratch}output_conv2.0", f"{ours}detail", "conv")
    rules += affine_rules(f"{scratch}output_conv2.2", f"{ours}last", "pointwise")
    for i in range(4):
        rules += affine_rules(f"{theirs}projects.{i}", f"{ours}projects.{i}", "pointwise")
        rules.append(Rule(f"{scratch}layer{i + 1}_rn.weight", f"{ours}levels.{i}.kernel", "conv"))
        refinenet = f"{scratch}refinenet{i + 1}"
        fusion = f"{ours}fusions.{i}"
        rules += affine_rules(f"{refinenet}.out_conv", f"{fusion}.out", "pointwise")
        units = {"resConfUnit2": "both"}
        if i < 3:  # the deepest level is not added to another one
            units["resConfUnit1"] = "level"
        for unit, name in units.items():
            for conv in ("conv1", "conv2"):
                rules += affine_rules(
                    f"{refinenet}.{unit}.{conv}", f"{fusion}.{name}.{conv}", "conv"
                )
    return rules


def refiner_rules(config: Config) -> list[Rule]:
    """URGT, with the DPT heads that the model has."""
    rules = [
        Rule("aggregator.camera_token", "camera", "unbatched"),
        Rule("aggregator.register_token", "registers", "unbatched"),
    ]
    rules += vit_rules(config.model.encoder, "aggregator.patch_embed.", "encoder.", priors=True)
    rules += _block_rules("aggregator.frame_blocks.{}", "within_patch", "mlp", qk_norm=True)
    rules += _block_rules("aggregator.global_blocks.{}", "across_patches", "mlp", qk_norm=True)
    for kind in config.model.outputs:
        rules += norm_rules(f"{kind}_head.norm", f"{kind}_head.norm")
        rules += _dpt_rules(f"{kind}_head.", f"{kind}_head.pyramid.")
    return rules


def depth_anything_rules(config: DepthAnythingConfig) -> list[Rule]:
    """Depth Anything V2."""
    return vit_rules(config.vit, "pretrained.", "vit.") + _dpt_rules("depth_head.", "pyramid.")


def encoder_rules(config: Vit) -> list[Rule]:
    """DINOv2 alone."""
    return vit_rules(config, "", "")


def metric3d_rules(config: Metric3DConfig) -> list[Rule]:
    """Metric3D v2."""
    decoder = "depth_model.decoder."
    rules = vit_rules(config.vit, "depth_model.encoder.", "vit.", block="blocks.0.{}")
    rules += _reassembly_rules(f"{decoder}token2feature.")
    rules += _guess_rules(decoder)
    rules += _context_rules(decoder)
    rules += _update_rules(f"{decoder}update_block.")
    return rules


def _reassembly_rules(theirs: str) -> list[Rule]:
    """Metric3D's maps from tokens."""
    rules = []
    for i in range(4):
        project = f"{theirs}read_{i}.readoper.project_"
        ours = f"reassembly.reads.{i}"
        rules += affine_rules(f"{project}patch", f"{ours}.patch", "linear")
        rules.append(Rule(f"{project}learn.weight", f"{ours}.special.kernel", "linear"))
    rules += affine_rules(f"{theirs}read_0.sample.0", "reassembly.finest", "pointwise")
    rules += affine_rules(f"{theirs}read_1.sample", "reassembly.upsample", "upsample2")
    return rules


def _guess_rules(theirs: str) -> list[Rule]:
    """Metric3D's fusion and first guess."""
    rules = []
    for i in range(3):
        upconv = f"{theirs}decoder_mono.upconv_{i + 1}"
        ours = f"guess.fuses.{i}"
        rules += affine_rules(f"{upconv}.out_conv", f"{ours}.out", "pointwise")
        paths = ["trunk"]
        if i < 2:
            paths.append("branch")
        for path in paths:
            for conv in ("conv1", "conv2"):
                rules += affine_rules(
                    f"{upconv}.way_{path}.{conv}", f"{ours}.{path}.{conv}", "conv"
                )
    # Every other layer of the official heads is a ReLU. Only the first one is a 3 x 3 convolution.
    rules += affine_rules(f"{theirs}depth_regressor.0", "guess.depth.0", "conv")
    rules += affine_rules(f"{theirs}depth_regressor.2", "guess.depth.1", "pointwise")
    rules += affine_rules(f"{theirs}normal_predictor.0", "guess.normal.0", "conv")
    for i in range(1, 4):
        rules += affine_rules(f"{theirs}normal_predictor.{2 * i}", f"guess.normal.{i}", "pointwise")
    return rules


def _context_rules(theirs: str) -> list[Rule]:
    """Metric3D's context encoder."""
    rules = []
    for i, scale in enumerate(("04", "08", "16")):
        for j, kind in enumerate(("states", "contexts")):
            block = f"{theirs}context_feature_encoder.outputs{scale}.{j}"
            ours = f"{kind}.{i}"
            rules += affine_rules(f"{block}.1", f"{ours}.out", "conv")
            rules += affine_rules(f"{block}.0.downsample.0", f"{ours}.skip", "pointwise")
            rules += affine_rules(f"{block}.0.conv1", f"{ours}.conv1", "conv")
            rules += affine_rules(f"{block}.0.conv2", f"{ours}.conv2", "conv")
            rules += norm_rules(f"{block}.0.norm1", f"{ours}.norm1")
            rules += norm_rules(f"{block}.0.norm2", f"{ours}.norm2")
            # The third norm is stored under two names. torch loads this one last.
            rules += norm_rules(f"{block}.0.downsample.1", f"{ours}.norm3")
        rules += affine_rules(f"{theirs}context_zqr_convs.{i}", f"gates.{i}", "conv")
    return rules


def _update_rules(theirs: str) -> list[Rule]:
    """Metric3D's recurrent units and their heads."""
    rules = []
    for i, scale in enumerate(("08", "16", "32")):
        for gate in ("z", "r", "q"):
            ours = f"update.grus.{i}.{gate}"
            rules += affine_rules(f"{theirs}gru{scale}.conv{gate}", ours, "conv")
    for i in range(2):
        rules += affine_rules(f"{theirs}flow_head.conv{i + 1}d", f"update.depth.{i}", "conv")
        rules += affine_rules(f"{theirs}flow_head.conv{i + 1}n", f"update.normal.{i}", "conv")
    rules += affine_rules(f"{theirs}mask.0", "update.mask.0", "conv")
    rules += affine_rules(f"{theirs}mask.2", "update.mask.1", "pointwise")
    return rules


RULES: dict[str, Callable[..., list[Rule]]] = {
    "refiner": refiner_rules,
    "encoder": encoder_rules,
    "depth_anything": depth_anything_rules,
    "metric3d": metric3d_rules,
}

# Patterns of official tensors that no output depends on. Our files keep them for the export.
UNUSED_TENSORS = (
    r"(^|\.)mask_token$",  # needed for the training of DINOv2 only
    r"^depth_head\.scratch\.refinenet4\.resConfUnit1\.",  # of Depth Anything's deepest level
    r"\.context_feature_encoder\..*\.norm3\.",  # Metric3D's second name for downsample.1
)
# Patterns of official tensors that are left out: the heads of VGGT that URGT does not have.
DROPPED_TENSORS = (r"^(camera|point|track)_head\.",)


def required_unused_shapes(config: FileConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of unused official tensors that torch needs for strict loading, by name."""
    if isinstance(config, Config):
        return {"aggregator.patch_embed.mask_token": (1, config.model.width)}
    if isinstance(config, Vit):
        return {"mask_token": (1, config.width)}
    return {}


def official_names(rule: Rule, shape: tuple[int, ...]) -> list[str]:
    """The official tensors that make a parameter of this shape."""
    if rule.is_stacked:
        return [rule.theirs.format(block) for block in range(shape[0])]
    return [rule.theirs]


def official_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each official tensor that makes a parameter of this shape."""
    if rule.is_stacked:
        shape = shape[1:]
    # All layouts are views of our array, so this touches no memory.
    return LAYOUTS[rule.layout].to_official(np.empty(shape, np.bool_)).shape


def gather(rule: Rule, shape: tuple[int, ...], read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Makes a parameter of this shape from its official tensors, which `read` loads by name."""
    to_ours = LAYOUTS[rule.layout].to_ours
    if not rule.is_stacked:
        return np.ascontiguousarray(to_ours(read(rule.theirs)))
    # Filled one by one: a list of all blocks would hold them twice.
    stacked = np.empty(shape, np.float32)
    for block, name in enumerate(official_names(rule, shape)):
        stacked[block] = to_ours(read(name))
    return stacked
