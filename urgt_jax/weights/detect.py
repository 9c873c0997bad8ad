"""Which published model a checkpoint is, and its configuration, from names and shapes alone."""

import difflib
import math
import re
from collections.abc import Callable, Mapping

from urgt_jax.config import TOKEN_SIZE, Config, Data, Eval, Model, Vit
from urgt_jax.errors import UserError, require
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig

# A tensor that every model of a family has, most telling first.
MARKS = (
    ("metric3d", "depth_model.encoder.cls_token"),
    ("refiner", "aggregator.camera_token"),
    ("depth_anything", "pretrained.cls_token"),
    ("encoder", "cls_token"),
)
LAYERS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}  # that published heads read
HEAD = 64  # channels of an attention head, in every published model
# Fields of checkpoints' own configurations that are counts, and lists of them.
COUNTS = ("num_heads", "dino_heads", "heads", "iters", "input_size")
LISTS = ("intermediate_layer_idx", "layers", "patch_process_shape", "patch_split", "process_shape",
         "feature_channels", "decoder_channels")  # fmt: skip
# What golden arrays and checkpoints' own configurations tell beside sizes.
REMARKS = ("doc", "cases", "torch", "fp32_vs_fp64", "weights", "seed", "ln_eps", "mlp_ratio",
           "patch_size", "swiglu_hidden", "encoder", "dim_in", "sd_shapes")  # fmt: skip


def detect_family(tensors: Mapping, where: str) -> tuple[str, dict, list[str]]:
    """The family, its tensors without levels before their names, and the names of all others."""
    for kind, mark in MARKS:
        found = [n for n in tensors if n == mark or n.endswith(f".{mark}")]
        if found:
            prefix = min(found, key=len).removesuffix(mark)
            inside = {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}
            return kind, inside, [n for n in tensors if not n.startswith(prefix)]
    some = ", ".join(list(tensors)[:5])
    raise UserError(
        f"{where} is none of DINOv2, VGGT, URGT, Depth Anything V2 and Metric3D v2: "
        f"it holds {len(tensors)} tensors ({some})"
    )


class UserConfig:
    """What the user tells of a model, checked against what its shapes tell."""

    def __init__(self, told: dict, where: str):
        self.told, self.where = told, where

    def settle(self, facts: dict, free: dict) -> dict:
        """All sizes: facts, which must not be contradicted, and free ones as told or by default."""
        known = {**facts, **free}
        for name, value in self.told.items():
            near = difflib.get_close_matches(name, known, 1, 0.85)
            require(
                name in known or name in REMARKS or not near,
                f"--config: unknown field {name}; did you mean {near[0] if near else ''}?",
            )
            value = tuple(value) if isinstance(value, list) else value
            require(
                name not in facts or value == facts[name],
                f"--config says {name} {value}, but the tensors of {self.where} say "
                f"{facts.get(name)}",
            )
            if name in free:
                free[name] = _of_its_kind(name, value)
        missing = [name for name, value in free.items() if value is None]
        require(
            not missing,
            f"the shapes in {self.where} are of no published model: tell {', '.join(missing)} "
            "by --config F.json",
        )
        return {**facts, **free}


def _of_its_kind(name: str, value):
    """The value; fails where a count is not one, or a list of counts."""
    count = lambda x: type(x) is int and x >= 0  # noqa: E731
    require(name not in COUNTS or count(value), f"--config: {name} {value!r} is not a count")
    require(
        name not in LISTS or (isinstance(value, tuple) and value and all(map(count, value))),
        f"--config: {name} {value!r} is not a list of counts, such as [4, 11]",
    )
    return value


def _count(shapes: Mapping, pattern: str) -> int:
    """Blocks whose index stands in the group of the pattern."""
    found = [int(m[1]) for name in shapes if (m := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _side(shapes: Mapping, name: str) -> int:
    """The side in pixels that a position embedding was made for."""
    return math.isqrt(max(_size(shapes, (name, 1)) - 1, 0)) * TOKEN_SIZE


def _size(shapes: Mapping, *places: tuple[str, int]) -> int:
    """The side of the first tensor that is there; what is missing is told with all else later."""
    for name, axis in places:
        if name in shapes and axis < len(shapes[name].shape):
            return shapes[name].shape[axis]
    raise UserError(f"the checkpoint lacks {places[0][0]}, which tells its size: is it whole?")


def _heads(width: int) -> int | None:
    return width // HEAD if width % HEAD == 0 else None


def _vit(shapes: Mapping, prefix: str, block: str, resample: str, heads: int) -> Vit:
    """A vision transformer; what its shapes cannot tell is given."""
    swiglu = any(name.startswith(f"{prefix}blocks.") and ".w12." in name for name in shapes)
    registers = f"{prefix}register_tokens"
    return Vit(
        width=_size(shapes, (f"{prefix}cls_token", 2), (f"{prefix}pos_embed", 2)),
        depth=_count(shapes, re.escape(prefix) + block),
        num_heads=heads,
        registers=4 if registers in shapes else 0,
        ffn="swiglu" if swiglu else "mlp",
        pretrain_size=_side(shapes, f"{prefix}pos_embed"),
        position_resampling=resample,
    )


def infer_encoder(shapes: Mapping, given: UserConfig) -> Vit:
    """DINOv2; models with registers resample positions with antialias, those without do not."""
    width = _size(shapes, ("cls_token", 2))
    registered = "register_tokens" in shapes
    facts = {
        "embed_dim": width,
        "depth": _count(shapes, r"blocks\.(\d+)\."),
        "img_size": _side(shapes, "pos_embed"),
        "num_register_tokens": 4 if registered else 0,
    }
    free = {
        "num_heads": _heads(width),
        "interpolate_antialias": registered,
        "interpolate_offset": 0.0 if registered else 0.1,
        "ffn": "",
    }
    told = given.settle(facts, free)
    resample = "antialias" if told["interpolate_antialias"] else "offset"
    return _vit(shapes, "", r"blocks\.(\d+)\.", resample, told["num_heads"])


def _pyramid(shapes: Mapping, head: str) -> dict:
    """Channels of a DPT head."""
    return {
        "features": _size(shapes, *((f"{head}.scratch.layer{i}_rn.weight", 0) for i in (1, 2, 3))),
        "out_channels": tuple(
            _size(shapes, (f"{head}.projects.{i}.weight", 0), (f"{head}.projects.{i}.bias", 0))
            for i in range(4)
        ),
    }


def infer_refiner(shapes: Mapping, given: UserConfig) -> Config:
    """URGT, or VGGT as the start of one."""
    prefix, block = "aggregator.patch_embed.", r"blocks\.(\d+)\."
    width, depth = (
        _size(shapes, (f"{prefix}cls_token", 2), (f"{prefix}pos_embed", 2)),
        _count(shapes, r"aggregator\.frame_blocks\.(\d+)\."),
    )
    plain_vggt = f"{prefix}patch_embed_depth.proj.weight" not in shapes and (
        f"{prefix}patch_embed_normal.proj.weight" not in shapes
    )
    heads = [k for k in ("depth", "normal") if plain_vggt or f"{k}_head.norm.weight" in shapes]
    require(len(heads) > 0, "the checkpoint has neither a depth_head nor a normal_head")
    present = next((f"{k}_head" for k in heads if f"{k}_head.norm.weight" in shapes), "depth_head")
    facts = {
        "embed_dim": width,
        "depth": depth,
        "img_size": _side(shapes, f"{prefix}pos_embed"),
        "dino_depth": _count(shapes, re.escape(prefix) + block),
        **_pyramid(shapes, present),
    }
    free = {
        "num_heads": _heads(width),
        "dino_heads": _heads(width),
        "intermediate_layer_idx": LAYERS.get(depth),
        "patch_process_shape": (facts["img_size"],) * 2,
        "patch_split": (8, 8),
    }
    told = given.settle(facts, free)
    model = Model(
        encoder=_vit(shapes, prefix, block, "antialias", told["dino_heads"]),
        num_heads=told["num_heads"],
        depth=depth,
        dpt_layers=told["intermediate_layer_idx"],
        patch_size=told["patch_process_shape"],
        dpt_features=told["features"],
        dpt_channels=told["out_channels"],
        outputs=tuple(heads),
    )
    fidelity = "exact" if plain_vggt else "official"
    run = Eval(grid=told["patch_split"], overlap=0.3, fidelity=fidelity)
    return Config(model=model, data=Data(), eval=run)


def infer_depth_anything(shapes: Mapping, given: UserConfig) -> DepthAnythingConfig:
    """Depth Anything V2."""
    prefix, block = "pretrained.", r"blocks\.(\d+)\."
    width = _size(shapes, (f"{prefix}cls_token", 2), (f"{prefix}pos_embed", 2))
    depth = _count(shapes, re.escape(prefix) + block)
    facts = {
        "embed_dim": width,
        "depth": depth,
        "img_size": _side(shapes, f"{prefix}pos_embed"),
        **_pyramid(shapes, "depth_head"),
    }
    free = {
        "num_heads": _heads(width),
        "layers": LAYERS.get(depth),
        "input_size": facts["img_size"],
    }
    told = given.settle(facts, free)
    return DepthAnythingConfig(
        _vit(shapes, prefix, block, "offset", told["num_heads"]),
        layers=told["layers"],
        features=told["features"],
        channels=told["out_channels"],
        size=told["input_size"],
    )


def infer_metric3d(shapes: Mapping, given: UserConfig) -> Metric3DConfig:
    """Metric3D v2; the giant reads raw tokens of every quarter and has SwiGLU."""
    prefix, block = "depth_model.encoder.", r"blocks\.0\.(\d+)\."
    decoder, read = "depth_model.decoder.", "depth_model.decoder.token2feature.read_"
    width = _size(shapes, (f"{prefix}cls_token", 2), (f"{prefix}pos_embed", 2))
    giant = any(".w12." in name for name in shapes)
    facts = {
        "dim": width,
        "depth": _count(shapes, re.escape(prefix) + block),
        "img_size": _side(shapes, f"{prefix}pos_embed"),
        "hidden": _size(
            shapes, *((f"{decoder}update_block.gru08.conv{g}.weight", 0) for g in "zrq")
        ),
        "bins": _size(
            shapes, *((f"{decoder}depth_regressor.2.{leaf}", 0) for leaf in ("weight", "bias"))
        ),
    }
    small = "ViT-giant2" if giant else "ViT-Small" if facts["depth"] <= 12 else "ViT-Large"
    free = {
        "kind": small,
        "heads": _heads(width),
        "iters": 4 if small == "ViT-Small" else 8,
        "feature_channels": (),
        "decoder_channels": (),
        "process_shape": (616, 1064),
        "min_val": 0.1,
        "max_val": 200.0,
    }
    told = given.settle(facts, free)
    return Metric3DConfig(
        _vit(shapes, prefix, block, "offset", told["heads"]),
        reads="quarters" if giant else "last",
        channels=(
            _size(shapes, *((f"{read}0.sample.0.{leaf}", 0) for leaf in ("weight", "bias"))),
            _size(shapes, (f"{read}1.sample.weight", 1), (f"{read}1.sample.bias", 0)),
        ),
        hidden=told["hidden"],
        iters=told["iters"],
        bins=told["bins"],
        nearest=told["min_val"],
        farthest=float(told["max_val"]),
        input_size=told["process_shape"],
    )


INFER_CONFIG: dict[str, Callable[[Mapping, UserConfig], object]] = {
    "encoder": infer_encoder,
    "refiner": infer_refiner,
    "depth_anything": infer_depth_anything,
    "metric3d": infer_metric3d,
}
