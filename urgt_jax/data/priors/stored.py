"""Coarse maps of a data set on disk, at their network's own size, enlarged window by window.

A folder holds for each picture `NAME_depth.npy`, `NAME_normal.npy` and, written last, what training
on a window of it must know of the whole, `NAME_fit.json`. `priors.json` says what made them.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.config import Prior
from urgt_jax.config_files import flatten
from urgt_jax.data.priors import units
from urgt_jax.data.priors.units import DisparityFit, PriorUnit, to_network_unit
from urgt_jax.data.samples import WHOLE, Window
from urgt_jax.errors import UserError, require
from urgt_jax.files import write_text
from urgt_jax.images.files import check_map, write_map
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.resize import resize_window

ORIGIN_FILE = "priors.json"
ENDINGS = ("_depth.npy", "_normal.npy", "_fit.json")
AGAIN = "remove it and run urgt priors again"
ASPECT = 0.03  # by which a map's may differ from its picture's: networks round sides
INFORMATION = {"program"}  # of an origin; may differ between jobs that share a folder


class Record(NamedTuple):
    """What must be known of a whole picture to read a window of its coarse maps."""

    size: tuple[int, int]  # height and width of the picture, pixels
    unit: PriorUnit  # of the enlarged coarse depth
    fit: DisparityFit


class StoredPriors:
    """The coarse maps in a folder that `urgt priors` wrote."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / ORIGIN_FILE
        if not path.is_file():
            raise UserError(f"no priors at {self.folder}: run urgt priors for this data set first")
        origin = _load_json(path)
        try:
            self.kind, self.max_depth = origin["kind"], float(origin["max_depth"])
            self.corners = [origin[what]["geometry"] == "corners" for what in ("depth", "normal")]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} was not written by urgt priors: {error!r}") from error

    def read(
        self, name: str, size: tuple[int, int], window: Window = WHOLE
    ) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]]:
        """Coarse depth in the network's unit and unit normals in a window of the whole picture."""
        record = self._record(name)
        if record.size != tuple(size):
            raise UserError(
                f"the priors of {name} in {self.folder} are of a picture of {record.size} pixels, "
                f"but the data set's has {tuple(size)}: fill another folder"
            )
        depth = self._window(name, size, window, 0)
        low, scale = (np.float32(x) for x in record.unit)
        return (depth - low) / scale, unit_normals(self._window(name, size, window, 1))

    def fit(self, name: str) -> DisparityFit:
        """From true disparity in 1/metres to the picture's coarse disparity as it is read."""
        return self._record(name).fit

    def write(
        self,
        name: str,
        depth: Float[np.ndarray, "h w"],
        normal: Float[np.ndarray, "y x 3"],
        truth: Float[np.ndarray, "H W"],
        valid: Bool[np.ndarray, "H W"],
    ) -> None:
        """Stores the coarse maps of a picture whose depth in metres is known where `valid` says."""
        whole = resize_window(depth, *truth.shape, WHOLE, self.corners[0])
        coarse, unit = to_network_unit(whole, Prior(kind=self.kind), self.max_depth)
        found = units.fit_disparity(truth, valid & (truth < self.max_depth), coarse)
        for values, ending in zip((depth, normal), ENDINGS, strict=False):
            write_map(self.folder / f"{name}{ending}", values)
        record = Record(truth.shape, unit, found)._asdict()
        write_text(self.folder / f"{name}{ENDINGS[-1]}", json.dumps(record) + "\n")

    def finished(self) -> set[str]:
        """The names of pictures whose files are all there."""
        there = set(os.listdir(self.folder))
        names = {name.removesuffix(ENDINGS[-1]) for name in there if name.endswith(ENDINGS[-1])}
        return {name for name in names if all(name + ending in there for ending in ENDINGS)}

    def _window(self, name: str, size, window: Window, which: int) -> np.ndarray:
        path = self.folder / f"{name}{ENDINGS[which]}"
        values = _mapped(path, (2, 3)[which])
        return resize_window(values, *size, window, self.corners[which])

    def _record(self, name: str) -> Record:
        path = self.folder / f"{name}{ENDINGS[-1]}"
        if not path.is_file():
            raise UserError(
                f"no priors of picture {name} at {path}: run urgt priors again, "
                "which makes what is missing"
            )
        told = _load_json(path)
        try:
            return Record(tuple(told["size"]), PriorUnit(*told["unit"]), DisparityFit(*told["fit"]))
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): {AGAIN}") from error


def _load_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from error


def _mapped(path: Path, rank: int) -> np.ndarray:
    """The array of a file, of which only what is used is read."""
    if not path.is_file():
        raise UserError(f"no coarse map at {path}: run urgt priors again")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): {AGAIN}") from error
    if values.ndim != rank or values.dtype != np.float32:
        raise UserError(f"{path} holds {values.shape} {values.dtype}, no coarse map: {AGAIN}")
    return np.asarray(values)


def checked(values: np.ndarray, size: tuple[int, int], what: str, path: Path) -> np.ndarray:
    """A map of the picture's aspect and at most its size, as finite float32; else UserError."""
    ending, wanted = ((3,), "[h, w, 3]") if what == "normal" else ((), "[h, w]")
    require(
        values.ndim == 2 + len(ending) and values.shape[2:] == ending and min(values.shape) > 1,
        f"{path} has shape {values.shape}: a coarse {what} map is {wanted}",
    )
    (h, w), (height, width) = values.shape[:2], size
    require(
        abs(h * width / (w * height) - 1) <= ASPECT,
        f"{path} is {h} x {w}, but its picture {height} x {width}: its aspect is another",
    )
    require(
        h <= height and w <= width,
        f"{path} is {h} x {w}, larger than its picture of {height} x {width}: shrink it to that",
    )
    return check_map(values, values.shape, str(path))


def claim_folder(folder: Path, origin: dict) -> StoredPriors:
    """A folder for maps of this origin, new or begun before; fails if it holds others."""
    path = folder / ORIGIN_FILE
    if not path.is_file():
        write_text(path, json.dumps(origin, indent=1) + "\n")
    # Through JSON, where tuples become lists.
    there, here = flatten(_load_json(path)), flatten(json.loads(json.dumps(origin)))
    for name in sorted({*there, *here}):
        one, two = there.get(name), here.get(name)
        if one != two and name not in INFORMATION:
            raise UserError(
                f"{folder} holds priors made otherwise ({name} was {one}, now {two}): "
                "fill another folder with --out"
            )
    return StoredPriors(folder)
