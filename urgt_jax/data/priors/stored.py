"""Coarse maps of a data set on disk, stored at their own size and enlarged window by window.

A folder holds `NAME_depth.npy`, `NAME_normal.npy` and `NAME_fit.json` for each image. The JSON file
is written last; it holds what a window of an image needs to know about the whole image.
`priors.json` identifies what made the maps.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from etils.epath import Path, PathLike
from jaxtyping import Bool, Float

from urgt_jax.config import Prior
from urgt_jax.config_files import flatten
from urgt_jax.data.priors.units import DisparityFit, PriorUnit, fit_disparity, to_network_unit
from urgt_jax.data.samples import WHOLE, Window
from urgt_jax.errors import UserError, require
from urgt_jax.files import file_checksum, inside, load_npy, parse_json, seal, unseal, write_text
from urgt_jax.images.files import write_map
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.resize import resize_window

ORIGIN_FILE = "priors.json"
DEPTH_SUFFIX = "_depth.npy"
NORMAL_SUFFIX = "_normal.npy"
RECORD_SUFFIX = "_fit.json"
REMEDY = "remove it and run urgt priors again"
INFORMATIVE = {"program"}  # entries of priors.json that may differ between jobs on one folder


class Record(NamedTuple):
    """Facts about a whole image that reading a window of its coarse maps needs."""

    size: tuple[int, int]  # height and width of the image, pixels
    unit: PriorUnit  # of the coarse depth at the image's size
    fit: DisparityFit
    depth_checksum: str  # of the files with the maps
    normal_checksum: str


class StoredPriors:
    """The coarse maps in a folder that `urgt priors` wrote."""

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        self.verified: set[Path] = set()  # maps whose checksum was right
        path = self.folder / ORIGIN_FILE
        require(
            path.is_file(),
            f"no coarse maps in {self.folder}: run urgt priors for this data set first",
        )
        origin = _load_json(path)
        try:
            self.kind = origin["kind"]
            self.max_depth = float(origin["max_depth"])
            # Whether the corner pixels of a map and its image coincide, or else their borders do.
            self.depth_corners = origin["depth"]["geometry"] == "corners"
            self.normal_corners = origin["normal"]["geometry"] == "corners"
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} was not written by urgt priors: {error!r}") from error

    def read(
        self, name: str, size: tuple[int, int], window: Window = WHOLE
    ) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]]:
        """Coarse depth in the refiner's unit and unit normals in a window of the image.

        `size` is that of the whole image, pixels.
        """
        record = self._record(name)
        require(
            record.size == tuple(size),
            f"the coarse maps of {name} in {self.folder} belong to an image of {record.size} "
            f"pixels, but the data set's image has {tuple(size)}: write to another folder",
        )
        depth = self._map(f"{name}{DEPTH_SUFFIX}", 2, record.depth_checksum)
        depth = resize_window(depth, *size, window, self.depth_corners)
        depth = (depth - np.float32(record.unit.low)) / np.float32(record.unit.scale)
        normal = self._map(f"{name}{NORMAL_SUFFIX}", 3, record.normal_checksum)
        normal = resize_window(normal, *size, window, self.normal_corners)
        return depth, unit_normals(normal)

    def fit(self, name: str) -> DisparityFit:
        """The fit from true disparity (1 / metres) to the image's coarse disparity as read."""
        return self._record(name).fit

    def write(
        self,
        name: str,
        coarse_depth: Float[np.ndarray, "h w"],
        coarse_normal: Float[np.ndarray, "y x 3"],
        depth: Float[np.ndarray, "H W"],
        valid: Bool[np.ndarray, "H W"],
    ) -> None:
        """Stores the coarse maps of an image; `depth` is its true depth in metres where `valid`."""
        enlarged = resize_window(coarse_depth, *depth.shape, WHOLE, self.depth_corners)
        enlarged, unit = to_network_unit(enlarged, Prior(kind=self.kind), self.max_depth)
        fit = fit_disparity(depth, valid & (depth < self.max_depth), enlarged)
        depth_path = inside(self.folder, f"{name}{DEPTH_SUFFIX}")
        normal_path = inside(self.folder, f"{name}{NORMAL_SUFFIX}")
        write_map(depth_path, coarse_depth)
        write_map(normal_path, coarse_normal)
        record = Record(
            depth.shape, unit, fit, file_checksum(depth_path), file_checksum(normal_path)
        )
        text = json.dumps(seal(record._asdict()))
        write_text(inside(self.folder, f"{name}{RECORD_SUFFIX}"), text + "\n")

    def finished(self) -> set[str]:
        """The names of images whose files are all present."""
        files = {path.name for path in self.folder.iterdir()}
        names = set()
        for file in files:
            name = file.removesuffix(RECORD_SUFFIX)
            if (
                name != file
                and f"{name}{DEPTH_SUFFIX}" in files
                and f"{name}{NORMAL_SUFFIX}" in files
            ):
                names.add(name)
        return names

    def _record(self, name: str) -> Record:
        path = inside(self.folder, f"{name}{RECORD_SUFFIX}")
        require(
            path.is_file(),
            f"no coarse maps of image {name} at {path}: run urgt priors again to make them",
        )
        entries = _load_json(path)
        try:
            return Record(
                tuple(entries["size"]),
                PriorUnit(*entries["unit"]),
                DisparityFit(*entries["fit"]),
                entries["depth_checksum"],
                entries["normal_checksum"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): {REMEDY}") from error

    def _map(self, name: str, rank: int, checksum: str) -> np.ndarray:
        """The array in a file, memory-mapped so that only the rows in use are read.

        The first time the whole file is read, to see whether it is what was written.
        """
        path = inside(self.folder, name)
        require(path.is_file(), f"no coarse map at {path}: run urgt priors again")
        if path not in self.verified:
            require(
                file_checksum(path) == checksum,
                f"{path} is damaged (it is not what was written): {REMEDY}",
            )
            self.verified.add(path)
        return _map_file(path, rank)


def _load_json(path: Path) -> dict[str, Any]:
    try:
        return unseal(parse_json(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {REMEDY}") from error


def _map_file(path: Path, rank: int) -> np.ndarray:
    """The array in a file, memory-mapped so that only the rows in use are read."""
    try:
        values = load_npy(path, mapped=True)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): {REMEDY}") from error
    require(
        values.ndim == rank and values.dtype == np.float32,
        f"{path} holds {values.shape} {values.dtype}, not a coarse map: {REMEDY}",
    )
    return np.asarray(values)


def claim_folder(folder: Path, origin: dict[str, Any]) -> StoredPriors:
    """The folder for maps of this origin; UserError if it already holds maps of another."""
    path = folder / ORIGIN_FILE
    if not path.is_file():
        write_text(path, json.dumps(seal(origin), indent=1) + "\n")
    stored = flatten(_load_json(path))
    wanted = flatten(json.loads(json.dumps(origin)))  # through JSON, tuples become lists
    for name in sorted({*stored, *wanted} - INFORMATIVE):
        old = stored.get(name)
        new = wanted.get(name)
        require(
            old == new,
            f"{folder} holds coarse maps made with other settings ({name} was {old}, now {new}): "
            "write to another folder with --out",
        )
    return StoredPriors(folder)
