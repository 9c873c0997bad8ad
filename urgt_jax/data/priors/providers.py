"""What makes coarse maps of pictures: networks, folders of maps, or the truth itself, degraded."""

import dataclasses
import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from urgt_jax.data.priors import networks
from urgt_jax.data.priors.degrade import STRENGTHS, degrade
from urgt_jax.data.priors.fill_holes import fill_holes
from urgt_jax.data.priors.stored import checked
from urgt_jax.data.samples import Sample, valid_depth
from urgt_jax.errors import UserError, require
from urgt_jax.images.files import read_map
from urgt_jax.images.geometry import normals_from_depth, unit_normals
from urgt_jax.models import depth_anything, metric3d, registry
from urgt_jax.weights.weight_file import load_weights, locate_weights

Size = tuple[int, int]


class Input(NamedTuple):
    """What a maker wants of a picture."""

    values: np.ndarray  # [1 ...] for a network; a map that is already made
    place: metric3d.InputWindow | None = None  # of the picture in them


class Provider(Protocol):
    """What makes coarse maps of one kind, at its own size."""

    origin: dict  # what tells its maps from another's

    def shape(self, size: Size) -> Size:
        """A size that pictures which run together have in common."""

    def prepare(self, name: str, sample: Sample) -> Input:
        """Runs in threads; a UserError tells that this picture has no map."""

    def run(self, inputs: list[Input]) -> list[np.ndarray]:
        """The maps of pictures of one shape."""


class Network:
    """A network on all devices of this host, one picture each; subclasses tell how it is fed."""

    def __init__(self, path: Path, kind: str):
        self.path = locate_weights(path)
        params, self.config = load_weights(path, kind)
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        self.params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self.cut = NamedSharding(mesh, PartitionSpec("data"))
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.origin = {
            "model": registry.FAMILIES[kind].title,
            "sha256": digest,
            "config": dataclasses.asdict(self.config),
            "geometry": "corners",
        }

    def run(self, inputs: list[Input]) -> list[np.ndarray]:
        """The maps of at most as many pictures as there are devices."""
        missing = len(self.cut.mesh.devices) - len(inputs)
        whole = np.concatenate([x.values for x in (*inputs, *inputs[-1:] * missing)])
        found = networks.run_network(self.params, jax.device_put(whole, self.cut), self.config)
        found = jax.device_get(found[-1] if isinstance(found, tuple) else found)
        maps = [self.finish(x, one) for x, one in zip(found, inputs, strict=False)]
        if not all(np.isfinite(x).all() for x in maps):
            raise UserError(f"{self.path} gives NaN: the weights are damaged")
        return maps


class DepthProvider(Network):
    """Depth Anything V2, as `urgt_jax.coarse.Disparity` before it enlarges."""

    def __init__(self, path: Path, size: int | None = None):
        super().__init__(path, "depth_anything")
        self.size = size or self.config.size
        self.origin |= {"size": self.size}

    def shape(self, size: Size) -> Size:
        """The network's input, which has the picture's aspect."""
        return depth_anything.input_size(*size, self.size)

    def prepare(self, name: str, sample: Sample) -> Input:
        """The picture, normalised."""
        return Input(depth_anything.prepare(sample.image, self.size))

    def finish(self, found: Float[np.ndarray, "h w"], given: Input) -> Float[np.ndarray, "h w"]:
        """The map as it is."""
        return found


class NormalProvider(Network):
    """Metric3D v2, as `urgt_jax.coarse.Normals` before it enlarges."""

    def __init__(self, path: Path):
        super().__init__(path, "metric3d")

    def shape(self, size: Size) -> Size:
        """The same for all."""
        return self.config.input_size

    def prepare(self, name: str, sample: Sample) -> Input:
        """The picture with a border, normalised."""
        return Input(*metric3d.prepare(sample.image, self.config.input_size))

    def finish(self, found: Float[np.ndarray, "h w 4"], given: Input) -> Float[np.ndarray, "y x 3"]:
        """The normals without the border."""
        top, left, height, width = given.place
        return found[top : top + height, left : left + width, :3]


class ReadyMaps:
    """Makes no map by a network: each is ready once it is prepared."""

    def shape(self, size: Size) -> Size:
        """No matter: nothing is computed together."""
        return (0, 0)

    def run(self, inputs: list[Input]) -> list[np.ndarray]:
        """They are there already."""
        return [x.values for x in inputs]


class StoredFolder(ReadyMaps):
    """Any model's maps, from a folder of .npy files."""

    def __init__(self, path: Path, what: str):
        require(path.is_dir(), f"no folder with {what} maps at {path}")
        self.path, self.what = path, what
        self.origin = {"model": "maps", "folder": str(path.resolve()), "geometry": "centres"}

    def prepare(self, name: str, sample: Sample) -> Input:
        """The map of that picture, checked."""
        named = self.path / f"{name}_{self.what}.npy"
        path = named if named.is_file() else self.path / f"{name}.npy"
        values = read_map(path, f"coarse {self.what}")
        return Input(checked(values, sample.depth.shape, self.what, path))


class Degraded(ReadyMaps):
    """What is measured, made worse: one of a picture's two maps; both share the same errors."""

    def __init__(self, what: str, strength: str, max_depth: float):
        self.which = ("depth", "normal").index(what)
        self.prior, self.max_depth = STRENGTHS[strength], max_depth
        self.origin = {"model": "degraded truth", "strength": strength, "geometry": "centres"}

    def prepare(self, name: str, sample: Sample) -> Input:
        """Drawn from the picture's name, so that both maps are of one draw."""
        known = valid_depth(sample.depth, sample.valid, self.max_depth)
        require(known.any(), f"{name}: no depth is known, so there is nothing to degrade")
        require(sample.intrinsics is not None, f"{name} has no intrinsics, which normals need")
        disparity = np.where(known, 1 / np.where(known, sample.depth, 1), 0).astype(np.float32)
        depth = 1 / fill_holes(disparity, known)
        everywhere = np.ones_like(known)
        normal, sure = normals_from_depth(depth, sample.intrinsics, everywhere)
        whole = [fill_holes(np.asarray(normal[..., i]), np.asarray(sure)) for i in range(3)]
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        maps = degrade(
            depth, unit_normals(np.stack(whole, -1)), everywhere, self.prior, rng, self.max_depth
        )
        return Input(maps[self.which])
