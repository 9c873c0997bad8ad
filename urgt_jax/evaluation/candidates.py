"""The candidates that are scored: a refiner and its baselines, or saved predictions."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from urgt_jax.config import Config
from urgt_jax.data.priors.given import axis_signs
from urgt_jax.data.sources import PriorSample
from urgt_jax.errors import UserError, require
from urgt_jax.evaluation import metrics
from urgt_jax.images.depth_formats import read_png16
from urgt_jax.images.files import read_map
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.grid import Grid
from urgt_jax.images.resize import gaussian_blur
from urgt_jax.inference.modes import RefinerInputs
from urgt_jax.inference.refiner import Refiner

BLUR = 1 / 56  # standard deviation of the baseline's blur, as a share of the image height
MAX_LOG_ASPECT = 0.1  # largest difference of the logarithms of a map's and its image's aspect


class WindowDepths(NamedTuple):
    """Depth of overlapping windows before they are blended, in the candidate's unit."""

    windows: Grid
    depth: Float[np.ndarray, "P h w"]


class Candidate(NamedTuple):
    """Predicted maps of one image; None where there is no such map."""

    depth: Float[np.ndarray, "h w"] | None  # metres, or relative disparity
    normal: Float[np.ndarray, "h w 3"] | None
    patches: WindowDepths | None = None


@runtime_checkable
class CandidateSource(Protocol):
    """Provides the candidates of each image."""

    names: tuple[str, ...]  # of the candidates; the last one ranks the images
    needs_priors: bool  # whether samples must hold coarse maps

    def __call__(self, name: str, sample: PriorSample) -> dict[str, Candidate]:
        """The candidates of an image by name; a map that cannot be read is a UserError."""

    def unused_files(self, image_names: Iterable[str]) -> list[str]:
        """The files that belong to none of the images."""


class RefinerCandidates:
    """A refiner, and two baselines: its coarse maps, and a Gaussian blur of them."""

    names = ("coarse", "smoothed", "refined")
    needs_priors = True

    def __init__(self, refiner: Refiner, config: Config):
        self.refiner = refiner
        self.config = config
        self.unit = config.data.max_depth if config.prior.kind == "depth" else 1.0

    def __call__(self, name: str, sample: PriorSample) -> dict[str, Candidate]:
        """One forward pass for the maps, one for the windows of the consistency error."""
        maps = RefinerInputs(sample.image, sample.coarse_depth, sample.coarse_normal)
        size = sample.depth.shape
        config = self.config.eval
        refined = self.refiner.refine(maps, self.refiner.windows(size, config.grid, config.overlap))
        windows = metrics.consistency_windows(*size)
        patches = self.refiner.refine_windows(maps, windows)
        parts = None if patches is None else WindowDepths(windows, patches * self.unit)
        return {
            "coarse": Candidate(maps.depth * self.unit, maps.normal),
            "smoothed": Candidate(
                smooth(maps.depth) * self.unit, unit_normals(smooth(maps.normal))
            ),
            "refined": Candidate(refined.depth * self.unit, refined.normal, parts),
        }

    def unused_files(self, image_names: Iterable[str]) -> list[str]:
        """None: a refiner reads no files of images."""
        return []


def smooth(x: Float[np.ndarray, "H W *C"]) -> Float[np.ndarray, "H W *C"]:
    """Blur a coarse map: the baseline that does not look at the image."""
    return gaussian_blur(x, BLUR * x.shape[0])


class SavedPredictions:
    """Saved maps: NAME_depth.npy or .png, or NAME.npy or .png, and NAME_normal.npy."""

    names = ("predicted",)
    needs_priors = False

    def __init__(self, folder: Path, scale: float, axes: str = "opencv"):
        require(folder.is_dir(), f"no folder of predictions at {folder}")
        self.folder = folder
        self.scale = scale  # steps per metre of 16-bit PNG files
        self.axes = axes  # of the normals, as in `axis_signs`
        self.files = {}  # by name with a lower-case ending
        for path in folder.iterdir():
            suffix = path.suffix.lower()
            if suffix in (".npy", ".png"):
                self.files[path.stem + suffix] = path.name
        require(bool(self.files), f"{folder} holds no .npy and no .png file")

    def __call__(self, name: str, sample: PriorSample) -> dict[str, Candidate]:
        """The maps of that name, at the size they were saved in."""
        depth = self.read_depth(name)
        normal = self.read_normal(name)
        if depth is None and normal is None:
            raise UserError(f"{self.folder} holds no map of {name}: no {name}_depth.npy or .png")
        size = sample.depth.shape
        if depth is not None:
            check_aspect(depth.shape, size, f"the depth of {name} in {self.folder}")
            require(
                bool((depth > 0).any()),
                f"the depth of {name} in {self.folder} has no value above 0",
            )
        if normal is not None:
            check_aspect(normal.shape[:2], size, f"the normals of {name} in {self.folder}")
        return {"predicted": Candidate(depth, normal)}

    def unused_files(self, image_names: Iterable[str]) -> list[str]:
        """The files that belong to none of the images."""
        stems = set()
        for name in image_names:
            stems.update((name, f"{name}_depth", f"{name}_normal"))
        unused = [file for file in self.files.values() if file.rsplit(".", 1)[0] not in stems]
        return sorted(unused)

    def read_depth(self, name: str) -> Float[np.ndarray, "h w"] | None:
        """The depth map of an image in metres or relative disparity."""
        for stem in (f"{name}_depth", name):
            if f"{stem}.npy" in self.files:
                path = self.folder / self.files[f"{stem}.npy"]
                values = np.squeeze(read_map(path, "depth"))
                require(
                    values.ndim == 2 and values.size > 0 and values.dtype.kind == "f",
                    f"{path} has shape {values.shape} and dtype {values.dtype}: "
                    "depth must be float [H, W]",
                )
                return values.astype(np.float32)
            if f"{stem}.png" in self.files:
                path = self.folder / self.files[f"{stem}.png"]
                return read_png16(path) / np.float32(self.scale)
        return None

    def read_normal(self, name: str) -> Float[np.ndarray, "h w 3"] | None:
        """The normal map of an image; channels may also come first in the file."""
        if f"{name}_normal.npy" not in self.files:
            return None
        path = self.folder / self.files[f"{name}_normal.npy"]
        values = read_map(path, "normals")
        if values.ndim == 3 and values.shape[0] == 3 != values.shape[2]:
            values = values.transpose(1, 2, 0)
        require(
            values.ndim == 3
            and values.shape[2] == 3
            and values.size > 0
            and values.dtype.kind == "f",
            f"{path} has shape {values.shape} and dtype {values.dtype}: normals must be float "
            "[H, W, 3], pointing towards the camera",
        )
        require(
            bool(np.isfinite(values).all()),
            f"{path} holds NaN or infinite normals: replace them, for example by 0",
        )
        return values.astype(np.float32) * axis_signs(self.axes)


def check_aspect(map_size: tuple[int, int], image_size: tuple[int, int], what: str) -> None:
    """Fail unless the map is the image at another size."""
    map_aspect = map_size[0] / map_size[1]
    image_aspect = image_size[0] / image_size[1]
    require(
        abs(np.log(map_aspect / image_aspect)) < MAX_LOG_ASPECT,
        f"{what} has {map_size[0]} x {map_size[1]} pixels, but the image has "
        f"{image_size[0]} x {image_size[1]}: save the map with the aspect ratio of the image",
    )
