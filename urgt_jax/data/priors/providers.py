"""Sources of a data set's coarse maps: networks, folders of maps, or degraded ground truth."""

import dataclasses
import hashlib
import zlib
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float

from urgt_jax.data.priors.degrade import STRENGTHS, degrade
from urgt_jax.data.priors.fill_holes import fill_holes
from urgt_jax.data.priors.given import check_aspect, filled_normals
from urgt_jax.data.priors.networks import DepthNetwork, NetworkInput, NormalNetwork, Size
from urgt_jax.data.samples import Sample, valid_depth
from urgt_jax.errors import require
from urgt_jax.images.files import check_map, read_map
from urgt_jax.models import registry
from urgt_jax.remote import absolute

Kind = Literal["depth", "normal"]


@runtime_checkable
class Provider(Protocol):
    """Makes the coarse maps of one kind, at their own size."""

    origin: dict[str, Any]  # identifies what made the maps; stored in priors.json

    def input_size(self, size: Size) -> Size:
        """What images of a size must have in common to run together."""

    def prepare(self, name: str, sample: Sample) -> Any:
        """An input for `run`. Runs in threads; raises UserError if the image can have no map."""

    def run(self, inputs: list) -> list[np.ndarray]:
        """The maps of images with one `input_size`, at most one for each device of this host."""


class NetworkProvider:
    """A network's maps."""

    def __init__(self, network: DepthNetwork | NormalNetwork):
        self.network = network
        with network.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.origin = {
            "model": registry.FAMILIES[registry.kind_of(network.config)].title,
            "sha256": digest,
            "config": dataclasses.asdict(network.config),
            "geometry": "corners",
        }
        if isinstance(network, DepthNetwork):
            self.origin["size"] = network.size

    def input_size(self, size: Size) -> Size:
        """The size of the network's input."""
        return self.network.input_size(size)

    def prepare(self, name: str, sample: Sample) -> NetworkInput:
        """The image as the network takes it."""
        return self.network.prepare(sample.image)

    def run(self, inputs: list[NetworkInput]) -> list[np.ndarray]:
        """The network's maps."""
        return self.network.run(inputs)


class ReadyMaps:
    """Base of providers whose maps need no device: `prepare` returns the map itself."""

    def input_size(self, size: Size) -> Size:
        """The same for all images: any of them can run together."""
        return (0, 0)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The maps as they were prepared."""
        return inputs


class StoredFolder(ReadyMaps):
    """Any model's maps, from a folder of .npy files."""

    def __init__(self, path: Path, kind: Kind):
        require(path.is_dir(), f"no folder with {kind} maps at {path}")
        self.path = path
        self.kind = kind
        self.origin = {"model": "maps", "folder": str(absolute(path)), "geometry": "centres"}

    def prepare(self, name: str, sample: Sample) -> np.ndarray:
        """The image's map, NAME_depth.npy (or _normal) or NAME.npy, checked."""
        path = self.path / f"{name}_{self.kind}.npy"
        if not path.is_file():
            path = self.path / f"{name}.npy"
        values = read_map(path, f"coarse {self.kind}")
        return check_coarse_map(values, sample.depth.shape, self.kind, path)


def check_coarse_map(values: np.ndarray, size: Size, kind: Kind, path: Path) -> np.ndarray:
    """The map as float32; UserError unless it is finite and fits an image of that size.

    It may be smaller than the image, not larger, and must have about the image's aspect.
    """
    channels = (3,) if kind == "normal" else ()
    shape = "[h, w, 3]" if kind == "normal" else "[h, w]"
    require(
        values.ndim == 2 + len(channels)
        and values.shape[2:] == channels
        and min(values.shape[:2]) > 1,
        f"{path} has shape {values.shape}: a coarse {kind} map must be {shape}",
    )
    check_aspect(values.shape[:2], size, str(path))
    h, w = values.shape[:2]
    height, width = size
    require(
        h <= height and w <= width,
        f"{path} is {h} x {w}, larger than its image of {height} x {width}: shrink it to that size",
    )
    return check_map(values, values.shape, str(path))


class Degraded(ReadyMaps):
    """One of an image's two maps of degraded ground truth; both contain the same errors."""

    def __init__(self, kind: Kind, strength: str, max_depth: float):
        self.kind = kind
        self.prior = STRENGTHS[strength]
        self.max_depth = max_depth
        self.origin = {"model": "degraded truth", "strength": strength, "geometry": "centres"}

    def prepare(self, name: str, sample: Sample) -> np.ndarray:
        """The map. It is seeded by the image's name, so both kinds come from one draw."""
        known = valid_depth(sample.depth, sample.valid, self.max_depth)
        require(known.any(), f"{name}: no depth is known, so there is nothing to degrade")
        require(
            sample.intrinsics is not None,
            f"{name} has no intrinsics, but normals are computed with them: "
            "add them to the data set",
        )
        depth, normal = _fill_truth(sample, known)
        everywhere = np.ones_like(known)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        coarse_depth, coarse_normal = degrade(
            depth, normal, everywhere, self.prior, rng, self.max_depth, sample.intrinsics
        )
        return coarse_depth if self.kind == "depth" else coarse_normal


def _fill_truth(
    sample: Sample, known: Bool[np.ndarray, "H W"]
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W 3"]]:
    """The sample's depth with its holes filled, and the normals of that depth."""
    disparity = np.where(known, 1 / np.where(known, sample.depth, 1), 0).astype(np.float32)
    depth = 1 / fill_holes(disparity, known)
    return depth, filled_normals(depth, sample.intrinsics, np.ones_like(known))
