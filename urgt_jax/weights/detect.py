"""Recognises a published checkpoint and infers its configuration from tensor names and shapes."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from urgt_jax.config import TOKEN_SIZE, Config, Data, Eval, Model, Vit
from urgt_jax.errors import UserError, require
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import FileConfig

Tensors = Mapping[str, Any]  # of each tensor only the shape is needed

# A tensor that every checkpoint of a family has. The first family that matches is the right one.
FAMILY_MARKS = (
    ("metric3d", "depth_model.encoder.cls_token"),
    ("refiner", "aggregator.camera_token"),
    ("depth_anything", "pretrained.cls_token"),
    ("encoder", "cls_token"),
)
# The layers that the heads of the published models read, by the depth of the transformer.
PUBLISHED_LAYERS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
HEAD_CHANNELS = 64  # channels of an attention head in every published model
NUM_REGISTERS = 4
WITHOUT_PREFIX = "model"  # for --take: tensors without a prefix
OPTIMIZER_STATE = re.compile(r"optim|exp_avg|momentum")
METRIC3D_INPUT = (616, 1064)  # height and width that Metric3D v2 was published with, pixels

# Fields that --config may set to a count, or to a list of counts.
COUNT_FIELDS = ("num_heads", "dino_heads", "heads", "iters", "input_size")
LIST_FIELDS = (
    "intermediate_layer_idx",
    "layers",
    "patch_process_shape",
    "patch_split",
    "process_shape",
)


def detect_family(
    tensors: Tensors, where: str, take: str = ""
) -> tuple[str, dict[str, Any], list[str]]:
    """Recognises the family of a checkpoint.

    Returns the family, its tensors without a prefix such as `module.`, and the names of all
    tensors outside that prefix. If the checkpoint holds the model several times, such as student
    and teacher, `take` says which: it is a part of the prefix.
    """
    for family, mark in FAMILY_MARKS:
        matches = [name for name in tensors if name == mark or name.endswith(f".{mark}")]
        if not matches:
            continue
        prefixes = [name.removesuffix(mark) for name in matches]
        prefix = _choose_prefix(prefixes, where, take)
        # Another copy of the model may be stored inside of this one, as the average ema. is.
        inside = tuple(x for x in prefixes if x != prefix and x.startswith(prefix))
        official = {}
        others = []
        for name, tensor in tensors.items():
            if name.startswith(prefix) and not name.startswith(inside):
                official[name.removeprefix(prefix)] = tensor
            else:
                others.append(name)
        return family, official, others
    examples = ", ".join(name[:40] for name in list(tensors)[:3])
    raise UserError(
        f"{where} is none of DINOv2, VGGT, URGT, Depth Anything V2 and Metric3D v2. "
        f"It holds {len(tensors)} tensors ({examples})."
    )


def _choose_prefix(prefixes: list[str], where: str, take: str) -> str:
    """The prefix of the copy of the model that the user wants; of one copy, the only one."""
    copies = {}
    for prefix in prefixes:
        if OPTIMIZER_STATE.search(prefix):
            continue
        parts = prefix.strip(".").split(".") if prefix else [WITHOUT_PREFIX]
        copies[prefix] = parts
    chosen = [prefix for prefix, parts in copies.items() if not take or take in parts]
    if len(chosen) == 1:
        return chosen[0]
    require(copies, f"{where} holds the state of an optimizer and no model")
    # A part that all prefixes have, such as state_dict, tells none of them apart.
    shared = set.intersection(*(set(parts) for parts in copies.values()))
    first_own_parts = set()
    for parts in copies.values():
        own_parts = [part for part in parts if part not in shared]
        first_own_parts.add(own_parts[0] if own_parts else parts[-1])
    names = ", ".join(sorted(first_own_parts))
    require(chosen or not take, f"--take {take} chooses none of the models in {where}: {names}")
    raise UserError(
        f"{where} holds the model {len(copies)} times ({names}). Choose one with --take NAME"
    )


class UserConfig:
    """The fields of --config, checked against what the shapes say."""

    def __init__(self, fields: Mapping[str, Any], where: str):
        self.fields = fields
        self.where = where
        self.unused: list[str] = []  # what `resolve` had no use for

    def resolve(self, inferred: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """Joins inferred values, which the user cannot change, with defaults, which they can.

        A default of None means that the user must set the field.
        """
        values = {**inferred, **defaults}
        for name, value in self.fields.items():
            if isinstance(value, list):
                value = tuple(value)
            if name in inferred:
                require(
                    value == inferred[name],
                    f"--config sets {name} to {value}, but the tensors of {self.where} have "
                    f"{inferred[name]}",
                )
            elif name in defaults:
                _check_counts(name, value)
                values[name] = value
            else:
                for similar in difflib.get_close_matches(name, values, n=1, cutoff=0.85):
                    raise UserError(f"--config: unknown field {name}; did you mean {similar}?")
                self.unused.append(name)
        missing = [name for name, value in values.items() if value is None]
        require(
            not missing,
            f"{self.where} matches no published model: set {', '.join(missing)} in --config F.json",
        )
        return values


def _check_counts(name: str, value: Any) -> None:
    """Fails if the field should be a count, or a list of counts, and is not."""
    if name in COUNT_FIELDS:
        require(_is_count(value), f"--config: {name} {value!r} is not a count")
    if name in LIST_FIELDS:
        is_list = isinstance(value, tuple) and len(value) > 0
        require(
            is_list and all(_is_count(item) for item in value),
            f"--config: {name} {value!r} is not a list of counts, such as [4, 11]",
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _count_blocks(tensors: Tensors, pattern: str) -> int:
    """The number of blocks; the group of the pattern is the number of a block."""
    count = 0
    for name in tensors:
        match = re.match(pattern, name)
        if match:
            count = max(count, int(match[1]) + 1)
    return count


def _size(tensors: Tensors, *places: tuple[str, int]) -> int:
    """The length of an axis of the first of these tensors that the checkpoint has.

    Several places give the same size, so that a missing tensor is reported later, with all others.
    """
    for name, axis in places:
        if name in tensors and axis < len(tensors[name].shape):
            return tensors[name].shape[axis]
    raise UserError(f"the checkpoint has no {places[0][0]}, which gives a size. Is it complete?")


def _pretrain_size(tensors: Tensors, prefix: str) -> int:
    """The side in pixels of the images that the position embedding was made for."""
    num_tokens = _size(tensors, (f"{prefix}pos_embed", 1)) - 1  # without the class token
    return math.isqrt(max(num_tokens, 0)) * TOKEN_SIZE


def _width(tensors: Tensors, prefix: str) -> int:
    return _size(tensors, (f"{prefix}cls_token", 2), (f"{prefix}pos_embed", 2))


def _num_heads(width: int) -> int | None:
    """The attention heads of a published model of this width; None if there is none."""
    if width % HEAD_CHANNELS != 0:
        return None
    return width // HEAD_CHANNELS


def _uses_swiglu(tensors: Tensors, prefix: str) -> bool:
    return any(name.startswith(f"{prefix}blocks.") and ".w12." in name for name in tensors)


def _infer_vit(
    tensors: Tensors, prefix: str, *, depth: int, num_heads: int, position_resampling: str
) -> Vit:
    return Vit(
        width=_width(tensors, prefix),
        depth=depth,
        num_heads=num_heads,
        registers=NUM_REGISTERS if f"{prefix}register_tokens" in tensors else 0,
        ffn="swiglu" if _uses_swiglu(tensors, prefix) else "mlp",
        pretrain_size=_pretrain_size(tensors, prefix),
        position_resampling=position_resampling,
    )


def _infer_dpt(tensors: Tensors, head: str) -> dict[str, Any]:
    """The channels of a DPT head, under their official names."""
    fusion_places = [(f"{head}.scratch.layer{i}_rn.weight", 0) for i in (1, 2, 3)]
    level_channels = []
    for i in range(4):
        project = f"{head}.projects.{i}"
        level_channels.append(_size(tensors, (f"{project}.weight", 0), (f"{project}.bias", 0)))
    return {"features": _size(tensors, *fusion_places), "out_channels": tuple(level_channels)}


def infer_encoder(tensors: Tensors, user_config: UserConfig) -> Vit:
    """The configuration of DINOv2.

    Models with registers resample positions with antialiasing; those without add an offset of 0.1.
    """
    width = _size(tensors, ("cls_token", 2))
    depth = _count_blocks(tensors, r"blocks\.(\d+)\.")
    has_registers = "register_tokens" in tensors
    values = user_config.resolve(
        inferred={
            "embed_dim": width,
            "depth": depth,
            "img_size": _pretrain_size(tensors, ""),
            "num_register_tokens": NUM_REGISTERS if has_registers else 0,
        },
        defaults={
            "num_heads": _num_heads(width),
            "interpolate_antialias": has_registers,
        },
    )
    return _infer_vit(
        tensors,
        "",
        depth=depth,
        num_heads=values["num_heads"],
        position_resampling="antialias" if values["interpolate_antialias"] else "offset",
    )


def lacks_priors(tensors: Tensors) -> bool:
    """Whether a checkpoint embeds neither prior, so that it is VGGT and not URGT."""
    embeddings = "aggregator.patch_embed.patch_embed_"
    depth = f"{embeddings}depth.proj.weight"
    normal = f"{embeddings}normal.proj.weight"
    return depth not in tensors and normal not in tensors


def infer_refiner(tensors: Tensors, user_config: UserConfig) -> Config:
    """The configuration of URGT, or of a refiner that starts from VGGT."""
    encoder = "aggregator.patch_embed."
    width = _width(tensors, encoder)
    depth = _count_blocks(tensors, r"aggregator\.frame_blocks\.(\d+)\.")
    encoder_depth = _count_blocks(tensors, re.escape(encoder) + r"blocks\.(\d+)\.")
    pretrain_size = _pretrain_size(tensors, encoder)
    is_vggt = lacks_priors(tensors)
    stored = [kind for kind in ("depth", "normal") if f"{kind}_head.norm.weight" in tensors]
    outputs = ["depth", "normal"] if is_vggt else stored
    require(len(outputs) > 0, "the checkpoint has neither a depth_head nor a normal_head")
    dpt_head = f"{stored[0]}_head" if stored else "depth_head"
    values = user_config.resolve(
        inferred={
            "embed_dim": width,
            "depth": depth,
            "img_size": pretrain_size,
            "dino_depth": encoder_depth,
            **_infer_dpt(tensors, dpt_head),
        },
        defaults={
            "num_heads": _num_heads(width),
            "dino_heads": _num_heads(width),
            "intermediate_layer_idx": PUBLISHED_LAYERS.get(depth),
            "patch_process_shape": (pretrain_size, pretrain_size),
            "patch_split": (8, 8),
        },
    )
    vit = _infer_vit(
        tensors,
        encoder,
        depth=encoder_depth,
        num_heads=values["dino_heads"],
        position_resampling="antialias",
    )
    model = Model(
        encoder=vit,
        num_heads=values["num_heads"],
        depth=depth,
        dpt_layers=values["intermediate_layer_idx"],
        patch_size=values["patch_process_shape"],
        dpt_features=values["features"],
        dpt_channels=values["out_channels"],
        outputs=tuple(outputs),
    )
    # A refiner that starts from VGGT is trained here, so it gets the positions of the paper.
    fidelity = "exact" if is_vggt else "official"
    evaluation = Eval(grid=values["patch_split"], overlap=0.3, fidelity=fidelity)
    return Config(model=model, data=Data(), eval=evaluation)


def infer_depth_anything(tensors: Tensors, user_config: UserConfig) -> DepthAnythingConfig:
    """The configuration of Depth Anything V2."""
    encoder = "pretrained."
    width = _width(tensors, encoder)
    depth = _count_blocks(tensors, re.escape(encoder) + r"blocks\.(\d+)\.")
    pretrain_size = _pretrain_size(tensors, encoder)
    values = user_config.resolve(
        inferred={
            "embed_dim": width,
            "depth": depth,
            "img_size": pretrain_size,
            **_infer_dpt(tensors, "depth_head"),
        },
        defaults={
            "num_heads": _num_heads(width),
            "layers": PUBLISHED_LAYERS.get(depth),
            "input_size": pretrain_size,
        },
    )
    vit = _infer_vit(
        tensors,
        encoder,
        depth=depth,
        num_heads=values["num_heads"],
        position_resampling="offset",
    )
    return DepthAnythingConfig(
        vit=vit,
        layers=values["layers"],
        features=values["features"],
        channels=values["out_channels"],
        size=values["input_size"],
    )


def infer_metric3d(tensors: Tensors, user_config: UserConfig) -> Metric3DConfig:
    """The configuration of Metric3D v2.

    The giant model has SwiGLU, and its decoder reads the raw tokens of every quarter.
    """
    encoder = "depth_model.encoder."
    decoder = "depth_model.decoder."
    width = _width(tensors, encoder)
    depth = _count_blocks(tensors, re.escape(encoder) + r"blocks\.0\.(\d+)\.")
    is_giant = _uses_swiglu(tensors, encoder)
    if is_giant:
        kind = "ViT-giant2"
    elif depth <= 12:
        kind = "ViT-Small"
    else:
        kind = "ViT-Large"
    recurrent_places = [(f"{decoder}update_block.gru08.conv{gate}.weight", 0) for gate in "zrq"]
    regressor = f"{decoder}depth_regressor.2"
    values = user_config.resolve(
        inferred={
            "dim": width,
            "depth": depth,
            "img_size": _pretrain_size(tensors, encoder),
            "hidden": _size(tensors, *recurrent_places),
            "bins": _size(tensors, (f"{regressor}.weight", 0), (f"{regressor}.bias", 0)),
        },
        defaults={
            "heads": _num_heads(width),
            "iters": 4 if kind == "ViT-Small" else 8,
            "process_shape": METRIC3D_INPUT,
            "min_val": 0.1,
            "max_val": 200.0,
        },
    )
    vit = _infer_vit(
        tensors,
        encoder,
        depth=depth,
        num_heads=values["heads"],
        position_resampling="offset",
    )
    finest = f"{decoder}token2feature.read_0.sample.0"
    upsampled = f"{decoder}token2feature.read_1.sample"
    finest_channels = _size(tensors, (f"{finest}.weight", 0), (f"{finest}.bias", 0))
    upsampled_channels = _size(tensors, (f"{upsampled}.weight", 1), (f"{upsampled}.bias", 0))
    return Metric3DConfig(
        vit=vit,
        reads="quarters" if is_giant else "last",
        channels=(finest_channels, upsampled_channels),
        hidden=values["hidden"],
        iters=values["iters"],
        bins=values["bins"],
        nearest=values["min_val"],
        farthest=float(values["max_val"]),
        input_size=values["process_shape"],
    )


INFER_CONFIG: dict[str, Callable[[Tensors, UserConfig], FileConfig]] = {
    "encoder": infer_encoder,
    "refiner": infer_refiner,
    "depth_anything": infer_depth_anything,
    "metric3d": infer_metric3d,
}
