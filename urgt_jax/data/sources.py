"""Pictures with their truth and their priors, from wherever they come, in one form."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt8

from urgt_jax import hardware
from urgt_jax.config import Config
from urgt_jax.data import scenes
from urgt_jax.data.priors import units
from urgt_jax.data.priors.degrade import degrade
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.priors.units import DisparityFit
from urgt_jax.data.samples import WHOLE, Source, Window, crop_intrinsics, valid_depth
from urgt_jax.data.sets import find_data_set
from urgt_jax.errors import require

CACHE = 8e9  # bytes of rendered pictures that are kept in memory at most
SHARE = 0.3  # of the machine's memory, that they may take where it is small
BYTES = 36  # per pixel of a Picture


class PriorSample(NamedTuple):
    """A window of a picture, its truth and its priors."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # metres
    valid: Bool[np.ndarray, "h w"]  # where depth is known and within the limit
    intrinsics: Float[np.ndarray, "4"] | None  # fx, fy, cx, cy of the window, pixels
    stereo: float | None  # focal length times baseline, pixels x metres
    normal: Float[np.ndarray, "h w 3"] | None  # unit, towards the camera; only where known exactly
    coarse_depth: Float[np.ndarray, "h w"] | None  # in the network's unit
    coarse_normal: Float[np.ndarray, "h w 3"] | None  # unit
    fit: DisparityFit | None  # of true disparity onto the coarse one, over the whole picture


class PriorSource(Protocol):
    """Pictures by number; reading a window costs no more than its own pixels where it can."""

    def __len__(self) -> int:
        """The number of pictures."""

    def name(self, index: int) -> str:
        """What files that belong to the picture are called by."""

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """The window of a picture."""


class SceneSource:
    """Analytic scenes with degraded truth as priors; picture i is a function of (split, i)."""

    def __init__(self, config: Config, split: str, cache: bool = True):
        require(
            split in scenes.SPLITS,
            f"data.split {split}: scenes have {', '.join(scenes.SPLITS)}",
        )
        self.config, self.split = config, split
        self.kept: dict[int, PriorSample] = {}  # few scenes are soon only read
        # A cap, since neither other processes of this machine nor their number is known here.
        room = min(CACHE, SHARE * hardware.total_memory()) / max(config.data.workers, 1)
        self.room = room if cache else 0

    def __len__(self) -> int:
        trained = self.split in scenes.TRAINED
        return self.config.data.scenes if trained else self.config.eval.images or 200

    def name(self, index: int) -> str:
        """The split and the number."""
        return f"{self.split}_{index:05}"

    def size(self, index: int) -> tuple[int, int]:
        """The same for all."""
        return self.config.data.size

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """A scene must be rendered whole, since its priors depend on all of it."""
        whole = self.kept.get(index)
        if whole is None:
            whole = self._render(index)
            if len(self.kept) * whole.depth.size * BYTES < self.room:
                self.kept[index] = whole
        return whole if window == WHOLE else _crop(whole, window)

    def _render(self, index: int) -> PriorSample:
        limit, prior = self.config.data.max_depth, self.config.prior
        view = scenes.render(scenes.sample_scene(index, self.split), *self.config.data.size)
        valid = view.valid & (view.depth < limit)
        rng = np.random.default_rng([index, len(self.split)])
        truth = view.depth, view.normal, valid
        depth, normal = degrade(*truth, prior, rng, limit, view.image)
        return PriorSample(
            view.image, view.depth, valid, view.intrinsics, None, view.normal, depth, normal,
            units.fit_disparity(view.depth, valid, depth),
        )  # fmt: skip


def _crop(picture: PriorSample, window: Window) -> PriorSample:
    """The window of a whole picture."""
    parts = {
        name: x[window]
        for name, x in picture._asdict().items()
        if isinstance(x, np.ndarray) and x.ndim > 1
    }
    camera = crop_intrinsics(picture.intrinsics, window, picture.depth.shape)
    return picture._replace(**parts, intrinsics=camera)


class DataSetSource:
    """The pictures of a data set, with stored priors or, for what needs none, without."""

    def __init__(self, source: Source, stored: StoredPriors | None, max_depth: float):
        self.source, self.stored, self.max_depth = source, stored, max_depth

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The data set's name of the picture."""
        return self.source.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.source.size(index)

    def read(self, index: int, window: Window = WHOLE) -> PriorSample:
        """Only the window's own pixels are read, where the data set's files allow it."""
        sample = self.source.read(index, window)
        valid = valid_depth(sample.depth, sample.valid, self.max_depth)
        coarse, found = (None, None), None
        if self.stored:
            name = self.source.name(index)
            coarse = self.stored.read(name, self.source.size(index), window)
            found = self.stored.fit(name)
        return PriorSample(
            sample.image, sample.depth, valid, sample.intrinsics, sample.stereo, sample.normal,
            *coarse, found,
        )  # fmt: skip


def open_training_source(config: Config) -> PriorSource:
    """The images to train on: the training split, or the default one if the set has none."""
    data = config.data
    if data.source == "scenes":
        return open_prior_source(config, data.train_split, cache=True)
    # Not checked in the configuration, since weights trained on scenes are scored on other sets.
    require(
        data.train_split == "train",
        f"data.train_split {data.train_split} exists only for scenes. Leave it out for "
        f"{data.source}",
    )
    return open_prior_source(config, find_data_set(data.source).train_split, cache=True)


def default_split(name: str, split: str) -> str:
    """The split, or the data set's default one if it is empty; empty if the set has no splits."""
    if split:
        return split
    return "test" if name == "scenes" else find_data_set(name).default_split


def open_source(name: str, path: str | Path, split: str = "") -> Source:
    """A split of the data set of that name in a folder."""
    return find_data_set(name)(Path(path), split)


def priors_folder(path: str | Path, split: str, told: str = "") -> Path:
    """Where the coarse maps of a data set's split lie."""
    return Path(told or Path(path) / "priors") / (split or "all")


def open_prior_source(
    config: Config, split: str, with_priors: bool = True, cache: bool = False
) -> PriorSource:
    """The pictures that a configuration names, with priors unless told otherwise.

    What takes long to make is kept where it will be read again.
    """
    data, split = config.data, default_split(config.data.source, split)
    if data.source == "scenes":
        return SceneSource(config, split, cache=cache)
    source = open_source(data.source, data.path, split)
    stored = None
    if with_priors:
        stored = StoredPriors(priors_folder(data.path, split, data.priors_path))
        require(
            stored.kind == config.prior.kind,
            f"prior.kind is {config.prior.kind}, but the coarse maps in {stored.folder} hold "
            f"{stored.kind}: set --prior.kind {stored.kind}, or fill in others",
        )
        require(
            stored.max_depth == data.max_depth,
            f"data.max_depth is {data.max_depth:g}, but the coarse maps in {stored.folder} were "
            f"fitted to {stored.max_depth:g}: set it so, or fill in others with --max-depth",
        )
    return DataSetSource(source, stored, data.max_depth)
