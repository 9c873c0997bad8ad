"""The configuration of an experiment: frozen dataclasses whose comments are the options' help."""

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from urgt_jax.errors import UserError, require

MAX_BLOCK_PATCHES = 16  # patches in the largest GridMix block (4 x 4), and in a packed row
TOKEN_SIZE = 14  # pixels per token and side, DINOv2's
MAX_PATCH_PIXELS = 2**22  # of the network's patches, 15 times the released model's
TRACKERS = ("tensorboard", "wandb", "trackio")  # that train.trackers may name


def check_positive(owner: str, config, *names: str) -> None:
    """Fails unless all the named fields are above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{owner}.{name} {value} is out of range: it must be above 0")


def check_not_negative(owner: str, config, *names: str) -> None:
    """Fails unless all the named fields are at least 0."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{owner}.{name} {value} must not be negative")


def check_layers(name: str, layers: tuple[int, ...], depth: int) -> None:
    """Fails unless the layers that a DPT head reads are in rising order and exist."""
    in_order = list(layers) == sorted(layers) and layers[0] >= 0
    require(in_order, f"{name} {layers} must be in rising order")
    require(
        layers[-1] < depth,
        f"{name} {layers} reads beyond the depth {depth}: lower the layers",
    )


class Dtypes(NamedTuple):
    """The dtypes of the parts of a forward pass."""

    products: str  # inputs of the blocks' matrix products
    residual: str  # tokens between blocks, to which every block adds
    heads: str  # activations of the DPT heads


DTYPES = {
    "float32": Dtypes("float32", "float32", "float32"),
    # Float32 arrays with quicker products: TF32 on GPUs, three passes of bfloat16 on TPUs.
    "tensorfloat32": Dtypes("float32", "float32", "float32"),
    # The released code's choice, autocast without the DPT heads.
    "bfloat16": Dtypes("bfloat16", "float32", "float32"),
    # Less memory and time than that, and less accurate.
    "bfloat16-residual": Dtypes("bfloat16", "bfloat16", "float32"),
    "bfloat16-heads": Dtypes("bfloat16", "float32", "bfloat16"),
    "bfloat16-all": Dtypes("bfloat16", "bfloat16", "bfloat16"),
}
Dtype = Literal[
    "float32",
    "tensorfloat32",
    "bfloat16",
    "bfloat16-residual",
    "bfloat16-heads",
    "bfloat16-all",
]


@dataclass(frozen=True)
class Vit:
    """The shape of a DINOv2 vision transformer."""

    width: int = 1024  # channels of a token
    depth: int = 24  # number of blocks
    num_heads: int = 16  # attention heads
    registers: Literal[0, 4] = 4  # register tokens beside the class token
    ffn: Literal["mlp", "swiglu"] = "mlp"  # second half of a block; DINOv2's giant has swiglu
    pretrain_size: int = 518  # side of the images that the position embedding was made for, pixels
    # How the position embedding is resampled: VGGT's way (antialias) or DINOv2's (offset).
    position_resampling: Literal["antialias", "offset"] = "antialias"
    layer_scale: float = 1.0  # initial LayerScale

    def __post_init__(self) -> None:
        check_positive("encoder", self, "width", "depth", "num_heads", "pretrain_size")
        require(
            self.width % self.num_heads == 0,
            f"encoder.width {self.width} is not a multiple of encoder.num_heads {self.num_heads}",
        )
        require(
            self.pretrain_size % TOKEN_SIZE == 0,
            f"encoder.pretrain_size {self.pretrain_size} is not a multiple of {TOKEN_SIZE}",
        )


@dataclass(frozen=True)
class Model:
    """The shape of the refiner."""

    encoder: Vit = field(default_factory=Vit)
    num_heads: int = 16  # attention heads of the blocks after the encoder
    depth: int = 24  # pairs of blocks: within a patch, then across patches
    # Pairs whose outputs the DPT heads read.
    dpt_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    patch_size: tuple[int, int] = (518, 518)  # height and width that a patch is resized to, pixels
    dpt_features: int = 256  # channels of the DPT heads' fusion path
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # channels of the DPT levels
    outputs: tuple[Literal["depth", "normal"], ...] = ("depth", "normal")  # which DPT heads exist
    layer_scale: float = 0.01  # initial LayerScale of the pairs, VGGT's
    # Initial standard deviation of the DPT heads' last layer, the released code's.
    last_layer_std: float = 1e-4
    cross_patch: bool = True  # attention across patches; without it every patch is on its own
    # Positions over the whole image, or over each patch.
    rope: Literal["global", "local"] = "global"
    dtype: Dtype = "float32"  # dtype of the forward pass (docs/gpu.md); parameters stay float32
    # What the backward pass recomputes instead of keeping it: nothing; whole blocks; all of a block
    # except its attention; the same, with attention kept in host memory meanwhile.
    remat: Literal["none", "blocks", "attention", "offload"] = "none"

    def __post_init__(self) -> None:
        check_positive("model", self, "num_heads", "depth", "dpt_features", "last_layer_std")
        head_width, rest = divmod(self.width, self.num_heads)
        require(
            rest == 0 and head_width % 4 == 0,
            f"model.encoder.width {self.width} over model.num_heads {self.num_heads} must be a "
            "multiple of 4",
        )
        require(
            all(side >= TOKEN_SIZE and side % TOKEN_SIZE == 0 for side in self.patch_size),
            f"model.patch_size {self.patch_size} is out of range: sides must be multiples of "
            f"{TOKEN_SIZE}",
        )
        height, width = self.patch_size
        require(
            height * width <= MAX_PATCH_PIXELS,
            f"model.patch_size {self.patch_size} is out of range: it may have at most "
            f"{MAX_PATCH_PIXELS} pixels",
        )
        check_layers("model.dpt_layers", self.dpt_layers, self.depth)
        require(len(self.outputs) > 0, "model.outputs is empty: name depth, normal or both")
        require(
            self.dpt_features % 8 == 0,
            f"model.dpt_features {self.dpt_features} is not a multiple of 8",
        )

    @property
    def width(self) -> int:
        """Channels of a token, the encoder's."""
        return self.encoder.width

    @property
    def dtypes(self) -> "Dtypes":
        """What `dtype` says about each part of the forward pass."""
        return DTYPES[self.dtype]

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of tokens in a patch."""
        return self.patch_size[0] // TOKEN_SIZE, self.patch_size[1] // TOKEN_SIZE


SIZES: dict[str, Model] = {
    "tiny": Model(
        Vit(width=96, depth=3, num_heads=4, pretrain_size=98, layer_scale=0.2),
        num_heads=4,
        depth=3,
        dpt_layers=(0, 0, 1, 2),
        patch_size=(56, 98),
        dpt_features=32,
        dpt_channels=(24, 48, 64, 64),
        layer_scale=0.2,
        last_layer_std=0.01,
    ),
    "small": Model(
        Vit(width=384, depth=12, num_heads=6),
        num_heads=6,
        depth=12,
        dpt_layers=(2, 5, 8, 11),
        dpt_features=64,
        dpt_channels=(48, 96, 192, 384),
    ),
    "base": Model(
        Vit(width=768, depth=12, num_heads=12),
        num_heads=12,
        depth=12,
        dpt_layers=(2, 5, 8, 11),
        dpt_features=128,
        dpt_channels=(96, 192, 384, 768),
    ),
    "large": Model(),
}


@dataclass(frozen=True)
class Prior:
    """What the coarse maps are, and how scenes' ground truth is degraded into them.

    A pair is a range: a number in it is drawn for every image.
    """

    kind: Literal["disparity", "depth"] = "disparity"  # relative disparity in [0, 1], or metres
    lines: tuple[float, float] = (192.0, 518.0)  # height of the coarse map, at most the image's
    blur: tuple[float, float] = (0.3, 0.7)  # blur of edges, coarse pixels (std)
    displace: tuple[float, float] = (0.4, 1.2)  # displacement of edges, coarse pixels (std)
    # Spread of the scale and shift of disparity over surfaces, std of the logarithm.
    drift: tuple[float, float] = (0.03, 0.08)
    tilt: tuple[float, float] = (2.0, 8.0)  # tilt of surfaces' normals, degrees (std)
    noise: tuple[float, float] = (0.0, 2e-4)  # noise per coarse pixel, as a share of mean disparity
    thin: float = 0.3  # share of images in which thin structures are lost or thickened
    from_depth: float = 0.0  # share of images whose normals are computed from coarse depth
    exact: float = 0.0  # share of images whose coarse maps are the ground truth

    def __post_init__(self) -> None:
        for name in ("lines", "blur"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"prior.{name} {(low, high)} must be a rising pair above 0")
        for name in ("displace", "drift", "tilt", "noise"):
            low, high = getattr(self, name)
            pair = f"prior.{name} {(low, high)}"
            require(0 <= low <= high, f"{pair} must be a rising pair of at least 0")
        for name in ("thin", "from_depth", "exact"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"prior.{name} {share} is out of range [0, 1]")


@dataclass(frozen=True)
class Data:
    """Where images come from, and how patches are drawn from them (GridMix)."""

    source: str = "scenes"  # analytic scenes, or the name of a data set (docs/data-sets.md)
    path: str = ""  # folder of the data set
    split: str = ""  # split to score (default: the data set's usual one)
    train_split: Literal["train", "varied"] = "train"  # split of scenes to train on
    priors_path: str = ""  # folder of the coarse maps (default: `priors` in the data set's folder)
    size: tuple[int, int] = (2160, 3840)  # height and width of a scene, pixels
    scenes: int = 100_000  # number of training scenes before they repeat
    mix: tuple[float, float, float, float] = (0.1, 0.2, 0.3, 0.4)  # chances of 1x1, 2x2, 3x3, 4x4
    batch: int = 4  # images in a step over all hosts (at M = 4 when batching patches), or rows
    # What stays the same from step to step: the number of images, of patches, or of rows of 16
    # patches that hold the blocks of several images (packed).
    batching: Literal["images", "patches", "packed"] = "images"
    overlap: float = 0.0  # overlap of a block's patches in training: 0, or 0.5 for halves
    max_depth: float = 80.0  # pixels beyond this depth are invalid, metres
    jitter: float = 0.0  # strength of colour jitter in training; 1 is strong
    workers: int = 0  # processes that prepare batches; 0 uses threads of the training process
    max_unreadable: int = 10  # images that may fail to be read before a run stops

    def __post_init__(self) -> None:
        check_positive("data", self, "scenes", "batch", "max_depth")
        check_not_negative("data", self, "workers", "max_unreadable", "jitter")
        require(
            (self.source == "scenes") == (self.path == ""),
            f"data.path {self.path!r} does not go with data.source {self.source}: scenes need no "
            "path, every other source needs the folder of the data set",
        )
        require(
            self.overlap in (0.0, 0.5),
            f"data.overlap {self.overlap} is not 0 (patches side by side) or 0.5 (shared halves)",
        )
        require(
            all(side >= 8 for side in self.size), f"data.size {self.size}: sides are at least 8"
        )
        require(
            min(self.mix) >= 0 and abs(sum(self.mix) - 1) < 1e-6,
            f"data.mix {self.mix} must be four probabilities that sum to 1",
        )

    @property
    def packed(self) -> bool:
        """Whether blocks of several images share a row of a batch."""
        return self.batching == "packed"

    def images(self, m: int) -> int:
        """Images, or packed rows, in a step whose blocks are m x m patches, over all hosts."""
        if self.batching == "patches":
            return self.batch * MAX_BLOCK_PATCHES // (m * m)
        return self.batch

    def patches(self, m: int) -> int:
        """Patches of an image whose block is m x m patches, or of a packed row."""
        return MAX_BLOCK_PATCHES if self.packed else m * m


@dataclass(frozen=True)
class Loss:
    """Weights of the loss terms; the paper names the terms and leaves the weights open."""

    depth: float = 1.0  # weight of all depth terms together
    # Depth error: squared as in the paper, or absolute in proportion to the truth, which leaves
    # uncertain edges sharper and counts distant surfaces as much as near ones.
    depth_error: Literal["squared", "relative"] = "squared"
    # Weight of gradient matching, within depth; it is a sum over two axes and four scales.
    gradient: float = 0.125
    normal: float = 1.0  # weight of all normal terms together
    # Normal error: 1 - cos of the angle as in the paper, or the distance of the unit vectors, whose
    # gradient does not vanish where the angle is already small.
    normal_error: Literal["cosine", "distance"] = "cosine"
    alignment: float = 1.0  # weight of the squared distance of unit normals, within normal
    normal_target: Literal["pseudo", "exact"] = "pseudo"  # normals of true depth, or a scene's own
    confidence: float = 0.0  # weight of the confidences' loss; 0 leaves them untrained
    seam: float = 0.0  # weight of differences in depth where neighbouring patches overlap

    def __post_init__(self) -> None:
        names = ("depth", "gradient", "normal", "alignment", "confidence", "seam")
        check_not_negative("loss", self, *names)


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 5e-5  # highest learning rate
    encoder_lr_scale: float = 1.0  # the encoder's share of the learning rate; 0 freezes it
    # Parameters that stay as they are: regular expressions for their paths (docs/train.md), such as
    # ^encoder/ or norm.
    frozen: tuple[str, ...] = ()
    steps: int = 40_000  # length of the run
    warmup: float = 0.05  # share of the steps that warm up
    weight_decay: float = 0.05  # weight decay of matrices; vectors do not decay
    grad_clip_norm: float = 1.0  # largest global norm of a gradient
    skip_above_grad_norm: float = 1e4  # a step whose gradient norm is above this is skipped
    max_skipped_steps: int = 0  # skipped steps before the run stops
    accumulate: int = 1  # parts that a batch is processed in, one after the other
    ema_decay: float = 0.0  # decay of the moving average of the weights that is saved; 0 is off

    def __post_init__(self) -> None:
        check_positive(
            "optim",
            self,
            "learning_rate",
            "steps",
            "grad_clip_norm",
            "accumulate",
            "skip_above_grad_norm",
        )
        check_not_negative("optim", self, "max_skipped_steps", "encoder_lr_scale", "weight_decay")
        require(0 <= self.ema_decay < 1, f"optim.ema_decay {self.ema_decay} is out of range [0, 1)")
        require(0 <= self.warmup < 1, f"optim.warmup {self.warmup} is out of range [0, 1)")
        for pattern in self.frozen:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"optim.frozen {pattern!r} is not a regular expression: {error}"
                ) from error

    def freezes(self, path: str) -> bool:
        """Whether `frozen` names the parameter of this path, such as encoder/cls."""
        return any(re.search(pattern, path) for pattern in self.frozen)


@dataclass(frozen=True)
class Train:
    """Checkpoints and logs of a run."""

    save_every: int = 1000  # steps between checkpoints
    save_minutes: float = 0.0  # also save this many minutes after the last checkpoint; 0 is off
    log_every: int = 50  # steps between lines of the log
    # The same bits in every run on GPUs too, at the cost of speed (docs/gpu.md). CPUs and TPUs give
    # them anyway.
    deterministic: bool = False
    # First step to profile, and number of steps (docs/train.md); 0 0 is off.
    profile: tuple[int, int] = (0, 0)
    # Also log to these: tensorboard, wandb, trackio, or the dotted path of a class of your own
    # (docs/train.md).
    trackers: tuple[str, ...] = ()
    images_every: int = 0  # steps between images of predictions for the trackers; 0 is off

    def __post_init__(self) -> None:
        check_positive("train", self, "save_every", "log_every")
        check_not_negative("train", self, "images_every", "save_minutes")
        first, count = self.profile
        require(
            self.profile == (0, 0) or (first >= 1 and count >= 1),
            f"train.profile {first} {count} is out of range: the first step and the number of "
            "steps must be at least 1",
        )
        for name in self.trackers:
            require(
                name in TRACKERS or "." in name.strip("."),
                f"train.trackers {name} is unknown. Choose from {', '.join(TRACKERS)}, or give the "
                "dotted path of a class, such as my_package.my_module.MyTracker",
            )
        require(
            len(set(self.trackers)) == len(self.trackers),
            f"train.trackers {' '.join(self.trackers)}: a tracker is named twice",
        )
        require(
            self.trackers or not self.images_every,
            f"train.images_every {self.images_every} needs a tracker: add --train.trackers "
            "tensorboard",
        )


@dataclass(frozen=True)
class Eval:
    """How a model is scored."""

    images: int = 0  # maximum number of images to score; 0 takes all of a data set, or 200 scenes
    grid: tuple[int, int] = (4, 4)  # rows and columns of patches; 0 0 fits them to each image
    max_patches: int = 256  # maximum number of patches of a fitted grid, before they overlap
    overlap: float = 0.0  # share of a patch that its neighbour covers too
    pool: int = 1  # average keys and values over K x K tokens across patches; 1 is exact
    # Alignment before scoring: none; scale of depth by medians (median), least squares (scale) or
    # L1 (scale_l1); scale and shift of depth by least squares (depth) or L1 (depth_l1), or of
    # disparity by least squares. `prior` is disparity for relative maps and none for metric ones.
    align: Literal[
        "prior", "none", "median", "scale", "scale_l1", "depth", "depth_l1", "disparity"
    ] = "prior"
    # Pixels that the alignment is fitted to: those that are scored, or all (sky at disparity 0).
    align_pixels: Literal["valid", "all"] = "valid"
    align_truncate: float = 0.0  # largest relative error that counts in scale_l1, depth_l1; 0: any
    # Whether pixels of a prediction that are 0, negative, NaN or infinite count as errors.
    holes: Literal["errors", "left_out"] = "errors"
    max_depth: float = 0.0  # farthest depth that is scored, metres; 0: the data set's usual one
    # Largest depth of an aligned prediction: max_depth, or the image's largest true depth.
    clamp: Literal["range", "image"] = "range"
    corners: bool = False  # enlarge small predictions with aligned corners
    cap_consistency: bool = True  # measure the consistency error up to max_depth
    fidelity: Literal["exact", "official"] = "exact"  # the paper's method, or the released code's
    # Also score MoGe's boundary F1 at radii 1 to 3, and the distances of edges (iBims-1).
    boundaries: bool = False
    # Also score edges (width, displacement, loss, overshoot), drift, and AbsRel in two parts.
    edges: bool = False

    def __post_init__(self) -> None:
        check_not_negative("eval", self, "images")
        check_not_negative("eval", self, "align_truncate", "max_depth")
        check_positive("eval", self, "pool", "max_patches")
        require(
            min(self.grid) >= 1 or self.grid == (0, 0),
            f"eval.grid {self.grid} must be at least 1 1, or 0 0 to fit each image",
        )
        require(0 <= self.overlap < 1, f"eval.overlap {self.overlap} is out of range [0, 1)")


@dataclass(frozen=True)
class Mesh:
    """How devices share the work."""

    data: int = 0  # groups of devices with images of their own; 0 takes all that are left
    # Devices that share the parameters, each with images of its own too; 0 takes the fewest that
    # leave most of their memory to activations, or 1 where the memory is not known.
    fsdp: int = 0
    patch: int = 1  # devices that share the patches of an image
    # Let fsdp and patch span TPU slices (or hosts with GPUs), between which the network is slow.
    # Otherwise only data does.
    span_slices: bool = False

    def __post_init__(self) -> None:
        check_not_negative("mesh", self, "data", "fsdp")
        check_positive("mesh", self, "patch")


@dataclass(frozen=True)
class Config:
    """An experiment."""

    seed: int = 0  # every random draw follows from it
    init: str = ""  # weights to start from: a converted DINOv2 (the encoder), VGGT-1B or URGT
    model: Model = field(default_factory=Model)
    prior: Prior = field(default_factory=Prior)
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    mesh: Mesh = field(default_factory=Mesh)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed {self.seed} must not be negative")
        overlapping = self.data.overlap > 0 and not self.data.packed
        require(
            not self.loss.seam or (overlapping and "depth" in self.model.outputs),
            f"loss.seam {self.loss.seam} compares depth where patches of a block overlap: it needs "
            "data.overlap 0.5, depth in model.outputs, and data.batching images or patches",
        )
