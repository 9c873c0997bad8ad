"""What is scored: a refiner beside its coarse maps, or a folder of anybody's maps."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from urgt_jax.config import Config
from urgt_jax.data.sources import PriorSample
from urgt_jax.errors import UserError, require
from urgt_jax.evaluation import metrics
from urgt_jax.images import grid
from urgt_jax.images.depth_formats import read_png16
from urgt_jax.images.files import read_map
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.grid import Grid
from urgt_jax.images.resize import gaussian_blur
from urgt_jax.inference.modes import RefinerInputs
from urgt_jax.inference.refiner import Refiner

SMOOTH = 1 / 56  # deviation of the blur that refinement has to beat, as a share of the height
ASPECT = 0.1  # by how much, as a logarithm, a map's may differ from its picture's


class WindowDepths(NamedTuple):
    """Depth of overlapping windows before they are blended, in the candidate's unit."""

    windows: Grid
    depth: Float[np.ndarray, "P h w"]


class Candidate(NamedTuple):
    """Maps of a picture that are to be scored; what there is not is None."""

    depth: Float[np.ndarray, "h w"] | None  # metres, or relative disparity
    normal: Float[np.ndarray, "h w 3"] | None
    patches: WindowDepths | None = None


class CandidateSource(Protocol):
    """Gives the candidates of a picture by their sides, in this order."""

    sides: tuple[str, ...]

    def __call__(self, name: str, picture: PriorSample) -> dict[str, Candidate]:
        """All sides of a picture; what cannot be read is a UserError."""


class RefinerCandidates:
    """A refiner, its coarse maps, and what a mere blur makes of them."""

    sides = ("coarse", "smoothed", "refined")

    def __init__(self, refiner: Refiner, config: Config):
        self.refiner, self.config = refiner, config
        self.unit = config.data.max_depth if config.prior.kind == "depth" else 1.0

    def __call__(self, name: str, picture: PriorSample) -> dict[str, Candidate]:
        """One forward pass for the maps, one for the windows of the consistency error."""
        c, maps = (
            self.config.eval,
            RefinerInputs(picture.image, picture.coarse_depth, picture.coarse_normal),
        )
        split, overlap = self.refiner.split(picture.depth.shape, c.grid, c.overlap)
        windows = grid.cover_image(*picture.depth.shape, *split, overlap)
        found = self.refiner.refine(maps, windows)
        windows = metrics.consistency_windows(*picture.depth.shape)
        patches = self.refiner.patches(maps, windows)
        parts = None if patches is None else WindowDepths(windows, patches * self.unit)
        return {
            "coarse": Candidate(maps.depth * self.unit, maps.normal),
            "smoothed": Candidate(
                _smooth(maps.depth) * self.unit, unit_normals(_smooth(maps.normal))
            ),
            "refined": Candidate(found.depth * self.unit, found.normal, parts),
        }


def _has_the_shape_of(picture: PriorSample, values: np.ndarray, what: str) -> None:
    """Fails where maps are not the picture at another size."""
    size, own = picture.depth.shape, values.shape[:2]
    require(
        abs(np.log(own[0] * size[1] / (own[1] * size[0]))) < ASPECT,
        f"{what} has {own[0]} x {own[1]} pixels, which is not the shape of a picture of "
        f"{size[0]} x {size[1]}: resize it",
    )


def _smooth(x: Float[np.ndarray, "H W *C"]) -> Float[np.ndarray, "H W *C"]:
    """Blur a coarse map: the baseline that needs no image."""
    return gaussian_blur(x, SMOOTH * x.shape[0])


class SavedPredictions:
    """Saved maps: NAME_depth.npy or .png, or NAME.npy or .png, and NAME_normal.npy."""

    sides = ("predicted",)

    def __init__(self, folder: Path, scale: float):
        require(folder.is_dir(), f"no folder of predictions at {folder}")
        self.folder, self.scale = folder, scale
        self.files = {p.name for p in folder.iterdir() if p.suffix in (".npy", ".png")}
        require(bool(self.files), f"{folder} holds no map: neither .npy nor .png")

    def __call__(self, name: str, picture: PriorSample) -> dict[str, Candidate]:
        """The maps of that name, at whatever size they were saved."""
        depth, normal = self._depth(name), None
        if f"{name}_normal.npy" in self.files:
            normal = self._normal(self.folder / f"{name}_normal.npy")
        if depth is None and normal is None:
            raise UserError(f"{self.folder} holds neither {name}_depth.npy nor .png for {name}")
        for what, values in (("depth", depth), ("normals", normal)):
            if values is not None:
                _has_the_shape_of(picture, values, f"the {what} of {name} in {self.folder}")
        require(
            depth is None or bool((depth > 0).any()),
            f"the depth of {name} in {self.folder} is nowhere above 0",
        )
        return {"predicted": Candidate(depth, normal)}

    def unused(self, names: Iterable[str]) -> list[str]:
        """Files that belong to none of the pictures."""
        stems = {name + ending for name in names for ending in ("", "_depth", "_normal")}
        return sorted(file for file in self.files if file.rsplit(".", 1)[0] not in stems)

    def _depth(self, name: str) -> np.ndarray | None:
        for stem in (f"{name}_depth", name):
            if f"{stem}.npy" in self.files:
                return self._floats(self.folder / f"{stem}.npy")
            if f"{stem}.png" in self.files:
                return read_png16(self.folder / f"{stem}.png") / np.float32(self.scale)
        return None

    def _floats(self, path: Path) -> np.ndarray:
        values = np.squeeze(read_map(path, "depth"))
        require(
            values.ndim == 2 and values.dtype.kind == "f",
            f"{path} has shape {values.shape} and dtype {values.dtype}: depth is float [H, W]",
        )
        return values.astype(np.float32)

    def _normal(self, path: Path) -> np.ndarray:
        values = read_map(path, "normals")
        if values.ndim == 3 and values.shape[0] == 3 != values.shape[2]:
            values = values.transpose(1, 2, 0)
        require(
            values.ndim == 3 and values.shape[2] == 3 and values.dtype.kind == "f",
            f"{path} has shape {values.shape} and dtype {values.dtype}: normals are float "
            "[H, W, 3], x right, y down, z forward, towards the camera",
        )
        require(bool(np.isfinite(values).all()), f"{path} holds NaN or infinite normals: fill them")
        return values.astype(np.float32)
