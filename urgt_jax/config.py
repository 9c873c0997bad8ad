"""What an experiment is made of: frozen dataclasses, whose comments are the command line's help."""

from dataclasses import dataclass, field
from typing import Literal

from urgt_jax.errors import require

ROW = 16  # patches of the largest block, and of a packed row
TOKEN = 14  # pixels of the process shape per token and side, DINOv2's


def _positive(owner: str, config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{owner}.{name} {value} is out of range: it must be above 0")


def _layers(owner: str, layers: tuple[int, ...], depth: int) -> None:
    require(
        list(layers) == sorted(layers) and 0 <= layers[0],
        f"{owner}.layers {layers} must be in rising order",
    )
    require(
        layers[-1] < depth,
        f"{owner}.layers {layers} reads beyond the depth {depth}: lower the layers",
    )


@dataclass(frozen=True)
class Vit:
    """A DINOv2 vision transformer's shape."""

    width: int = 1024  # channels of a token
    depth: int = 24  # blocks
    heads: int = 16  # attention heads
    registers: Literal[0, 4] = 4  # register tokens beside the class token
    ffn: Literal["mlp", "swiglu"] = "mlp"  # the blocks' second half; DINOv2's giant has swiglu
    pretrain: int = 518  # side of the pictures the position embedding was made for, pixels
    resample: Literal["antialias", "offset"] = "antialias"  # of positions: VGGT's way or DINOv2's
    scale: float = 1.0  # LayerScale at the start

    def __post_init__(self) -> None:
        _positive("encoder", self, "width", "depth", "heads", "pretrain")
        require(
            self.width % self.heads == 0,
            f"encoder.width {self.width} is not a multiple of encoder.heads {self.heads}",
        )
        require(
            self.pretrain % TOKEN == 0,
            f"encoder.pretrain {self.pretrain} is not a multiple of {TOKEN}",
        )


@dataclass(frozen=True)
class Model:
    """The refiner's shape."""

    encoder: Vit = field(default_factory=Vit)
    heads: int = 16  # attention heads of the pairs
    depth: int = 24  # pairs of blocks: within a patch, then across patches
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)  # pairs whose outputs the heads read
    process: tuple[int, int] = (518, 518)  # height and width a patch is resized to, pixels
    features: int = 256  # channels of the heads' fusion path
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # channels of the heads' levels
    outputs: tuple[Literal["depth", "normal"], ...] = ("depth", "normal")  # which heads there are
    layer_scale: float = 0.01  # LayerScale of the pairs at the start, VGGT's
    last: float = 1e-4  # deviation of the heads' last layer at the start, the released code's
    cross: bool = True  # attention across patches; without it every patch is on its own
    rope: Literal["global", "local"] = "global"  # coordinates over the image or over each patch
    dtype: Literal["float32", "bfloat16"] = "float32"  # activations; parameters stay float32
    # What the backward pass computes again instead of keeping it: nothing, whole blocks, all of a
    # block but its attention, or that too, with attention kept in the host's memory meanwhile.
    remat: Literal["none", "blocks", "attention", "offload"] = "none"
    unroll: bool = False  # blocks one after the other instead of a loop; slower to compile

    def __post_init__(self) -> None:
        _positive("model", self, "heads", "depth", "features", "last")
        require(
            self.width % self.heads == 0 and self.width // self.heads % 4 == 0,
            f"model.encoder.width {self.width} over model.heads {self.heads} must be a multiple "
            "of 4",
        )
        require(
            all(side >= TOKEN and side % TOKEN == 0 for side in self.process),
            f"model.process {self.process} is out of range: sides must be multiples of {TOKEN}",
        )
        _layers("model", self.layers, self.depth)
        require(len(self.outputs) > 0, "model.outputs is empty: name depth, normal or both")
        require(self.features % 8 == 0, f"model.features {self.features} is not a multiple of 8")

    @property
    def width(self) -> int:
        """Channels of a token, the encoder's."""
        return self.encoder.width

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of tokens in a patch."""
        return self.process[0] // TOKEN, self.process[1] // TOKEN


SIZES: dict[str, Model] = {
    "tiny": Model(
        Vit(width=96, depth=3, heads=4, pretrain=98, scale=0.2), heads=4, depth=3,
        layers=(0, 0, 1, 2), process=(56, 98), layer_scale=0.2, last=0.01,
        features=32, channels=(24, 48, 64, 64),
    ),
    "small": Model(
        Vit(width=384, depth=12, heads=6), heads=6, depth=12, layers=(2, 5, 8, 11),
        features=64, channels=(48, 96, 192, 384),
    ),
    "base": Model(
        Vit(width=768, depth=12, heads=12), heads=12, depth=12, layers=(2, 5, 8, 11),
        features=128, channels=(96, 192, 384, 768),
    ),
    "large": Model(),
}  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """What is known coarsely, and for scenes how the truth is degraded into it."""

    kind: Literal["disparity", "depth"] = "disparity"  # relative disparity in [0, 1], or metres
    # What follows is drawn for every picture, between two numbers.
    lines: tuple[float, float] = (32.0, 48.0)  # height of the coarse network's map, pixels
    blur: tuple[float, float] = (0.4, 0.7)  # blur of edges, in coarse pixels (standard deviation)
    displace: tuple[float, float] = (0.25, 0.25)  # edges' displacement, coarse pixels (deviation)
    grain: tuple[float, float] = (0.12, 0.12)  # noise of a coarse pixel, share of mean disparity
    rough: tuple[float, float] = (10.0, 10.0)  # noise of a coarse pixel's normal, degrees
    # Low-frequency distortion of depth, standard deviation of its logarithm.
    distort: tuple[float, float] = (0.015, 0.015)
    tilt: tuple[float, float] = (3.0, 3.0)  # low-frequency distortion of normals, degrees
    vary: float = 0.0  # share of pictures that are degraded in other ways (priors.WAYS)

    def __post_init__(self) -> None:
        for name in ("lines", "blur"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"prior.{name} {(low, high)} must be a rising pair above 0")
        for name in ("displace", "grain", "rough", "distort", "tilt"):
            low, high = getattr(self, name)
            pair = f"prior.{name} {(low, high)}"
            require(0 <= low <= high, f"{pair} must be a rising pair of at least 0")
        require(0 <= self.vary <= 1, f"prior.vary {self.vary} is out of range [0, 1]")


@dataclass(frozen=True)
class Data:
    """Where pictures come from and how patches are drawn from them (GridMix)."""

    source: Literal[
        "scenes",
        "unreal4k",
        "folder",
        "middlebury2014",
        "booster",
        "eth3d",
        "kitti",
        "nyu_depth_v2",
    ] = "scenes"  # analytic scenes, or a data set: docs/datasets.md
    path: str = ""  # where the data set lies
    split: str = ""  # that is scored; empty takes the set's usual one
    trained: Literal["train", "varied"] = "train"  # split of scenes that is trained on
    priors: str = ""  # where its coarse maps lie; empty takes `priors` in the data set's folder
    size: tuple[int, int] = (2160, 3840)  # height and width of a scene, pixels
    scenes: int = 100_000  # how many training scenes there are before they repeat
    mix: tuple[float, float, float, float] = (0.1, 0.2, 0.3, 0.4)  # chance of 1x1, 2x2, 3x3, 4x4
    # Steps after which the mix is adapted to the held-out error of each M; 0 leaves it as it is.
    adapt: int = 0
    batch: int = 4  # images in a step, over all hosts (at M = 4 when filled by patches), or rows
    # What stays the same from step to step: the images, the patches, or the rows of 16 patches that
    # blocks of several images are packed into.
    fill: Literal["images", "patches", "packed"] = "images"
    overlap: float = 0.0  # of a block's patches in training; 0.5 lets neighbours share halves
    max_depth: float = 80.0  # beyond this depth a pixel is invalid, metres
    jitter: float = 0.0  # how much pictures' colours are changed in training; 1 is much
    workers: int = 0  # processes that prepare batches; 0 uses threads of this one
    threads: int = 2  # threads that prepare batches in each process
    unreadable: int = 10  # pictures that may fail to be read before a run stops

    def __post_init__(self) -> None:
        _positive("data", self, "scenes", "batch", "max_depth", "threads")
        for name in ("workers", "unreadable", "jitter", "adapt"):
            value = getattr(self, name)
            require(value >= 0, f"data.{name} {value} must not be negative")
        require(
            (self.source == "scenes") == (self.path == ""),
            f"data.path {self.path!r} does not go with data.source {self.source}: scenes need "
            "none, every other source needs the folder it lies in",
        )
        require(
            self.overlap in (0.0, 0.5),
            f"data.overlap {self.overlap}: patches lie side by side (0) or share halves (0.5)",
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
        return self.fill == "packed"

    def images(self, m: int) -> int:
        """Images, or packed rows, in a step whose blocks are m x m patches, over all hosts."""
        return self.batch * ROW // (m * m) if self.fill == "patches" else self.batch

    def patches(self, m: int) -> int:
        """Patches of an image whose block is m x m patches, or of a packed row."""
        return ROW if self.packed else m * m


@dataclass(frozen=True)
class Loss:
    """Weights of the loss terms; the paper names the terms and leaves the weights open."""

    depth: float = 1.0  # all of the depth terms
    # Of depth: squared as the paper has it, or absolute in proportion to the truth, which leaves
    # edges sharper where they are uncertain and counts far things as much as near ones.
    error: Literal["squared", "relative"] = "squared"
    gradient: float = 1.0  # gradient matching, within depth
    normal: float = 1.0  # all of the normal terms
    # Of normals: 1 - cos of their angle as the paper has it, or their distance, which is the angle
    # while it is small: the median at edges, and no rest that is too small to be felt on planes.
    angle: Literal["cosine", "distance"] = "cosine"
    alignment: float = 1.0  # squared distance of unit normals, within normal
    target: Literal["pseudo", "exact"] = "pseudo"  # normals from true depth, or a scene's own
    confidence: float = 0.0  # what confidences learn: 1 / expected error; 0 leaves them unlearned
    agreement: float = 0.0  # refined normals with those of refined depth
    seam: float = 0.0  # refined depth of neighbours where both see the same

    def __post_init__(self) -> None:
        names = "depth", "gradient", "normal", "alignment", "confidence", "agreement", "seam"
        for name in names:
            require(getattr(self, name) >= 0, f"loss.{name} must not be negative")


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and cosine decay."""

    rate: float = 5e-5  # highest learning rate
    encoder: float = 1.0  # the encoder's share of the learning rate; 0 freezes it
    steps: int = 40_000  # length of the run
    warmup: float = 0.05  # share of the steps that warm up
    decay: float = 0.05  # weight decay of matrices
    clip: float = 1.0  # largest global norm of a gradient
    explodes: float = 1e4  # global norm above which a gradient has exploded, as if not finite
    skips: int = 0  # steps with such gradients that are left out before the run stops
    accumulate: int = 1  # parts that a batch is worked on in, one after the other
    average: float = 0.0  # decay of the moving average of the weights, which is what is kept; 0 off

    def __post_init__(self) -> None:
        _positive("optim", self, "rate", "steps", "clip", "accumulate", "explodes")
        require(self.skips >= 0, f"optim.skips {self.skips} must not be negative")
        require(0 <= self.average < 1, f"optim.average {self.average} is out of range [0, 1)")
        require(0 <= self.warmup < 1, f"optim.warmup {self.warmup} is out of range [0, 1)")
        require(self.encoder >= 0 and self.decay >= 0, "optim.encoder and decay are at least 0")


@dataclass(frozen=True)
class Train:
    """How a run goes on."""

    save_every: int = 1000  # steps between checkpoints
    keep: int = 2  # checkpoints that are kept
    log_every: int = 50  # steps between lines of the log
    tensorboard: bool = False  # what is logged, for TensorBoard too (pip install tensorboardX)
    pictures: int = 0  # steps between pictures of predictions in TensorBoard; 0 makes none

    def __post_init__(self) -> None:
        _positive("train", self, "save_every", "keep", "log_every")
        require(self.pictures >= 0, f"train.pictures {self.pictures} must not be negative")
        require(
            self.tensorboard or not self.pictures,
            f"train.pictures {self.pictures} go to TensorBoard: add --train.tensorboard",
        )


@dataclass(frozen=True)
class Eval:
    """How a model is scored."""

    images: int = 0  # pictures that are scored at most; 0 takes all of a data set, 200 scenes
    grid: tuple[int, int] = (4, 4)  # rows and columns of patches; 0 0 fits them to each picture
    zoom: float = 1.0  # pixels of the process shape for a pixel of the picture, where grid is 0 0
    patches: int = 256  # of a grid that is fitted to a picture, at most, before they overlap
    overlap: float = 0.0  # share of a patch that its neighbour sees too
    # How windows that overlap are weighted: by place alone, or by confidence as well.
    blend: Literal["place", "confidence"] = "place"
    pool: int = 1  # side of cells of tokens whose mean other patches see; above 1 is approximate
    align: Literal["prior", "none", "disparity"] = "prior"  # of depth to truth before it is scored
    fidelity: Literal["exact", "official"] = "exact"  # as the paper has it, or the released code
    examples: int = 6  # the worst pictures, which get a page each in the report

    def __post_init__(self) -> None:
        require(self.images >= 0, f"eval.images {self.images} must not be negative")
        require(self.examples >= 0, f"eval.examples {self.examples} must not be negative")
        require(
            min(self.grid) >= 1 or self.grid == (0, 0),
            f"eval.grid {self.grid} must be at least 1 1, or 0 0 to fit each picture",
        )
        require(
            self.blend == "place" or self.fidelity == "exact",
            "eval.blend confidence goes with eval.fidelity exact: the released code has no such",
        )
        require(self.pool >= 1, f"eval.pool {self.pool} must be at least 1")
        _positive("eval", self, "zoom", "patches")
        require(0 <= self.overlap < 1, f"eval.overlap {self.overlap} is out of range [0, 1)")


@dataclass(frozen=True)
class Mesh:
    """How devices share the work."""

    data: int = 0  # groups of devices, each with images of its own; 0 takes all that are left
    # Devices among which parameters are cut, each with images of its own too; 0 takes the fewest
    # that leave most of their memory to the work, and 1 where that is not known.
    fsdp: int = 0
    patch: int = 1  # devices among which the patches of an image are shared

    def __post_init__(self) -> None:
        for name in ("data", "fsdp"):
            value = getattr(self, name)
            require(value >= 0, f"mesh.{name} {value} must not be negative")
        _positive("mesh", self, "patch")


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
        require(
            not self.loss.agreement or len(self.model.outputs) == 2,
            "loss.agreement is of depth with normals: model.outputs must have both",
        )
        require(
            not self.loss.seam
            or (self.data.overlap > 0 and not self.data.packed and "depth" in self.model.outputs),
            "loss.seam is of depth where patches of a block overlap: it needs data.overlap 0.5, "
            "model.outputs with depth, and no data.fill packed",
        )
