"""Images with their ground truth and coarse maps, from scenes and data sets in one form."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils.epath import Path, PathLike
from jaxtyping import Bool, Float, UInt8

from urgt_jax import hardware
from urgt_jax.config import Config, Data
from urgt_jax.data import scenes
from urgt_jax.data.priors.degrade import degrade
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.priors.units import DisparityFit, fit_disparity
from urgt_jax.data.samples import (
    WHOLE,
    Annotations,
    Sample,
    Source,
    Window,
    crop_intrinsics,
    valid_depth,
)
from urgt_jax.data.sets import find_data_set
from urgt_jax.errors import UserError, require
from urgt_jax.remote import open_path

MAX_CACHE_BYTES = 8e9  # rendered scenes kept in memory by all worker processes
MAX_CACHE_SHARE = 0.3  # of the machine's memory, if that is less
BYTES_PER_PIXEL = 36  # of a PriorSample
MILLIMETRES = 500.0  # a larger depth of an image is rather in millimetres than in metres
EVALUATED_SCENES = 200  # if eval.images does not say how many


class PriorSample(NamedTuple):
    """A window of an image, its ground truth and its coarse maps."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # metres
    valid: Bool[np.ndarray, "h w"]  # pixels with a known depth within the limit
    intrinsics: Float[np.ndarray, "4"] | None  # fx, fy, cx, cy of the window, pixels
    stereo: float | None  # focal length times baseline, pixels x metres
    normal: Float[np.ndarray, "h w 3"] | None  # unit, towards the camera; only where exact
    coarse_depth: Float[np.ndarray, "h w"] | None  # in the refiner's unit
    coarse_normal: Float[np.ndarray, "h w 3"] | None  # unit
    fit: DisparityFit | None  # of true disparity to the coarse one, over the whole image
    annotations: Annotations | None = None


@runtime_checkable
class PriorSource(Protocol):
    """Images by number.

    Reading a window costs no more than its own pixels, if the file format allows it.
    """

    def __len__(self) -> int:
        """The number of images."""

    def name(self, index: int) -> str:
        """The name in the file names of everything about the image."""

    def scene(self, index: int) -> str:
        """The scene that the image shows, for means over scenes; empty if there are none."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, pixels."""

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """A window of the image."""


class SceneSource:
    """Analytic scenes with degraded ground truth; image i is a function of (split, i).

    With `cache`, rendered scenes stay in memory as long as there is room.
    """

    def __init__(self, config: Config, split: str, cache: bool = True):
        require(
            split in scenes.SPLITS,
            f"data.split {split} does not exist: scenes have {', '.join(scenes.SPLITS)}",
        )
        self.config = config
        self.split = split
        self.cache: dict[int, PriorSample] = {}
        self.cache_bytes = 0.0
        if cache:
            total = min(MAX_CACHE_BYTES, MAX_CACHE_SHARE * hardware.total_memory())
            self.cache_bytes = total / max(config.data.workers, 1)

    def __len__(self) -> int:
        if self.split in scenes.TRAINED:
            return self.config.data.scenes
        return self.config.eval.images or EVALUATED_SCENES

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split}_{index:05}"

    def scene(self, index: int) -> str:
        """Empty: every image is a scene of its own."""
        return ""

    def size(self, index: int) -> tuple[int, int]:
        """The same for all scenes."""
        return self.config.data.size

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """A window of a scene, which is rendered whole: its coarse maps depend on all of it."""
        sample = self.cache.get(index)
        if sample is None:
            sample = self._render(index)
            if len(self.cache) * sample.depth.size * BYTES_PER_PIXEL < self.cache_bytes:
                self.cache[index] = sample
        if window == WHOLE:
            return sample
        return _crop(sample, window)

    def _render(self, index: int) -> PriorSample:
        max_depth = self.config.data.max_depth
        scene = scenes.sample_scene(index, self.split)
        view = scenes.render(scene, *self.config.data.size)
        valid = valid_depth(view.depth, view.valid, max_depth)
        rng = np.random.default_rng([index, scenes.DEGRADATION_SEEDS[self.split]])
        coarse_depth, coarse_normal = degrade(
            view.depth, view.normal, valid, self.config.prior, rng, max_depth, view.intrinsics
        )
        return PriorSample(
            image=view.image,
            depth=np.where(view.valid, view.depth, np.float32(np.inf)),  # sky
            valid=valid,
            intrinsics=view.intrinsics,
            stereo=None,
            normal=view.normal,
            coarse_depth=coarse_depth,
            coarse_normal=coarse_normal,
            fit=fit_disparity(view.depth, valid, coarse_depth),
        )


def _crop(sample: PriorSample, window: Window) -> PriorSample:
    """The window of a whole scene."""
    return sample._replace(
        image=sample.image[window],
        depth=sample.depth[window],
        valid=sample.valid[window],
        intrinsics=crop_intrinsics(sample.intrinsics, window, sample.depth.shape),
        normal=sample.normal[window],
        coarse_depth=sample.coarse_depth[window],
        coarse_normal=sample.coarse_normal[window],
    )


class DepthOutOfRange(UserError):
    """An image without any depth that can be used, perhaps because of its unit."""


class DataSetSource:
    """The images of a data set, with stored coarse maps or without any."""

    def __init__(self, source: Source, stored: StoredPriors | None, max_depth: float):
        self.source = source
        self.stored = stored
        self.max_depth = max_depth

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The data set's name of the image."""
        return self.source.name(index)

    def scene(self, index: int) -> str:
        """The data set's name of the scene; empty if it names none."""
        scene_of = getattr(self.source, "scene", None)
        return scene_of(index) if scene_of else ""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.source.size(index)

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """A window of the image and of its coarse maps."""
        sample = self.source.read(index, window)
        valid = valid_depth(sample.depth, sample.valid, self.max_depth)
        only_depth = sample.normal is None and sample.annotations is None
        if window == WHOLE and only_depth and not valid.any():
            raise DepthOutOfRange(depth_out_of_range(self.name(index), sample, self.max_depth))
        coarse_depth = None
        coarse_normal = None
        fit = None
        if self.stored is not None:
            name = self.source.name(index)
            size = self.source.size(index)
            coarse_depth, coarse_normal = self.stored.read(name, size, window)
            fit = self.stored.fit(name)
        return PriorSample(
            image=sample.image,
            depth=sample.depth,
            valid=valid,
            intrinsics=sample.intrinsics,
            stereo=sample.stereo,
            normal=sample.normal,
            coarse_depth=coarse_depth,
            coarse_normal=coarse_normal,
            fit=fit,
            annotations=sample.annotations,
        )


def depth_out_of_range(name: str, sample: Sample, max_depth: float) -> str:
    """Why none of an image's depth can be used, with the likely unit."""
    known = sample.depth[valid_depth(sample.depth, sample.valid)]
    if not known.size:
        return f"image {name} has no pixel of known depth"
    text = (
        f"image {name} has no depth below data.max_depth {max_depth:g} m: its depth is "
        f"{known.min():.4g} to {known.max():.4g} m"
    )
    if known.max() > MILLIMETRES:
        return f"{text}. It is probably in millimetres: divide it by 1000 (depth_scale for PNG)"
    return f"{text}. Raise --data.max_depth, or store it in metres"


def open_training_source(config: Config) -> PriorSource:
    """The images to train on: the training split, or the default one if the set has none."""
    data = config.data
    if data.source == "scenes":
        return open_prior_source(config, data.train_split, cache=True)
    # Checked here and not in Config: weights carry it, and can be scored on any data set.
    require(
        data.train_split == "train",
        f"data.train_split {data.train_split} is a split of scenes: remove it for {data.source}",
    )
    source = open_prior_source(config, training_split(data))
    check_depth_range(source)
    return source


def training_split(data: Data) -> str:
    """The split that is trained on; empty if the data set has no splits."""
    if data.source == "scenes":
        return data.train_split
    return default_split(data.source, find_data_set(data.source).train_split)


def trains_on_scored_images(data: Data) -> bool:
    """Whether training uses the images that are scored if no split is named."""
    return training_split(data) == default_split(data.source, "")


def check_depth_range(source: PriorSource) -> None:
    """Fails if the first, the middle and the last image have no depth in the range of training.

    Windows of such images would be read without an error, and nothing could be learned from them.
    """
    for index in sorted({0, len(source) // 2, len(source) - 1}):
        try:
            sample = source.read(index)
        except DepthOutOfRange as error:
            problem = error
            continue
        except (UserError, OSError):
            return  # training reports it, and reads another image
        if sample.valid.any():
            return
        problem = DepthOutOfRange(
            f"image {source.name(index)} has no depth to learn from. Raise --data.max_depth if it "
            "is far away; sets of normals or mattes can only be scored"
        )
    raise problem


def open_prior_source(
    config: Config, split: str, with_priors: bool = True, cache: bool = False
) -> PriorSource:
    """The images of the configured scenes or data set, with their coarse maps or without.

    `cache` keeps rendered scenes in memory, for reading them again.
    """
    data = config.data
    split = default_split(data.source, split)
    if data.source == "scenes":
        return SceneSource(config, split, cache)
    source = open_source(data.source, data.path, split)
    stored = None
    if with_priors:
        stored = StoredPriors(priors_folder(data.path, split, data.priors_path))
        require(
            stored.kind == config.prior.kind,
            f"prior.kind is {config.prior.kind}, but the coarse maps in {stored.folder} hold "
            f"{stored.kind}: set --prior.kind {stored.kind}, or make others with urgt priors",
        )
        require(
            stored.max_depth == data.max_depth,
            f"data.max_depth is {data.max_depth:g}, but the coarse maps in {stored.folder} were "
            f"fitted up to {stored.max_depth:g}: set --data.max_depth {stored.max_depth:g}, or "
            "make others with urgt priors --max-depth",
        )
    return DataSetSource(source, stored, data.max_depth)


def open_source(name: str, path: PathLike, split: str = "") -> Source:
    """A split of the data set of that name in a folder; an empty split is the default one."""
    return find_data_set(name)(open_path(path), split)


def usual_max_depth(name: str) -> float:
    """The depth in metres up to which papers score the data set; infinite if there is no custom."""
    if name == "scenes":
        return float("inf")
    return getattr(find_data_set(name), "usual_max_depth", float("inf"))


def default_split(name: str, split: str) -> str:
    """The split, or the data set's default one if it is empty; empty if the set has no splits."""
    if split:
        return split
    return "test" if name == "scenes" else find_data_set(name).default_split


def priors_folder(path: PathLike, split: str, priors_path: str | Path = "") -> Path:
    """The folder of the coarse maps of a data set's split, by default inside the data set's."""
    root = open_path(priors_path or Path(path) / "priors")
    return root / (split or "all")
