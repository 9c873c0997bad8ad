"""Two ways to run a refiner: as the paper describes it, and as the released code does it.

`ExactMode` follows the paper: global token positions, one pixel geometry for the image and its
priors, and offsets that are added to untouched coarse maps. `OfficialMode` repeats the released
inference code (src/models/URGT.py, tools/infer.py), including the steps that do not line up. Its
plain bugs are fixed; docs/fidelity.md lists them.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.config import Config
from urgt_jax.data.priors.units import PriorUnit, to_network_unit
from urgt_jax.errors import require
from urgt_jax.images import grid as grids
from urgt_jax.images import resize
from urgt_jax.images.files import check_map, map_range
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.grid import Grid
from urgt_jax.images.resize import resize_map
from urgt_jax.images.rows import LazyMap

Image = UInt8[np.ndarray, "H W 3"]
Depth = Float[np.ndarray, "H W"]
Normal = Float[np.ndarray, "H W 3"]
UNITS = {"disparity": "disparity (1 / depth, at any scale)", "depth": "metres"}


class RefinerInputs(NamedTuple):
    """An image and its coarse maps as the refiner takes them, before windows are cut."""

    image: Image
    depth: Depth | LazyMap  # in the network's unit
    normal: Normal | LazyMap  # unit length
    unit: PriorUnit = PriorUnit(0.0, 1.0)  # how depth was brought into the network's unit

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[:2]


class WindowInputs(NamedTuple):
    """What the network sees of one window, at the model's patch size."""

    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]  # bytes, or floats in [0, 1]
    depth: Float[np.ndarray, "h w"]
    normal: Float[np.ndarray, "h w 3"]


@runtime_checkable
class Mode(Protocol):
    """The steps in which the two modes differ."""

    def working_image(self, image: Image, grid: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """The image that is refined, given the rows and columns of patches."""

    def prepare(
        self, image: Image, coarse_depth: np.ndarray, coarse_normal: np.ndarray
    ) -> RefinerInputs:
        """Check the coarse maps and bring them into the network's units."""

    def window_inputs(self, inputs: RefinerInputs, windows: Grid, k: int) -> WindowInputs:
        """Cut window k and resize it to the model's patch size."""

    def positions(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Row and column of every token, counted from 1."""

    def resize_to_window(
        self, x: Float[np.ndarray, "h w C"], windows: Grid
    ) -> Float[np.ndarray, "H W C"]:
        """A map at the model's patch size, resized to the size of a window."""

    def window_map(
        self, offset: Float[np.ndarray, "h w C"], prior: np.ndarray | LazyMap, windows: Grid, k: int
    ) -> Float[np.ndarray, "H W C"]:
        """The map of window k that is blended with those of other windows."""

    def blend_weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """The weight of each pixel of a window where windows overlap."""

    def add_prior(
        self, merged: Float[np.ndarray, "*S"], prior: Float[np.ndarray, "*S"]
    ) -> Float[np.ndarray, "*S"]:
        """Refined values, from the merged windows and the coarse map in the same place."""

    def unit_normals(self, normal: Normal) -> Normal:
        """Normals of length one."""

    def restore_size(
        self, x: Float[np.ndarray, "H W *C"], size: tuple[int, int]
    ) -> Float[np.ndarray, "h w *C"]:
        """A refined map at the size of the user's image."""


class ExactMode(Mode):
    """The paper's method."""

    def __init__(self, config: Config):
        self.config = config
        self.patch_size = config.model.patch_size

    def working_image(self, image: Image, grid: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """The image itself."""
        return image

    def prepare(
        self, image: Image, coarse_depth: np.ndarray, coarse_normal: np.ndarray
    ) -> RefinerInputs:
        """Bring depth into the network's unit; the maps must have the size of the image."""
        size = image.shape[:2]
        prior = self.config.prior
        low, high = map_range(coarse_depth, size, "coarse depth")
        require(
            high > 0,
            f"coarse depth is nowhere above 0: these weights expect {UNITS[prior.kind]}",
        )
        lowest, highest = map_range(coarse_normal, (*size, 3), "coarse normal")
        require(
            lowest != 0 or highest != 0,
            "coarse normal is 0 everywhere: pass unit vectors (x right, y down, z forward)",
        )
        extent = np.array([low, high], np.float32)
        unit = to_network_unit(extent, prior, self.config.data.max_depth)[1]

        def to_unit(depth: np.ndarray) -> np.ndarray:
            return (depth.astype(np.float32) - np.float32(unit.low)) / np.float32(unit.scale)

        def to_unit_length(normal: np.ndarray) -> np.ndarray:
            return unit_normals(normal.astype(np.float32))

        depth = LazyMap(coarse_depth, to_unit)
        normal = LazyMap(coarse_normal, to_unit_length)
        return RefinerInputs(image, depth, normal, unit)

    def window_inputs(self, inputs: RefinerInputs, windows: Grid, k: int) -> WindowInputs:
        """All three with the same geometry: pixel centres at one half."""
        window = windows.window(k)
        return WindowInputs(
            resize_map(inputs.image[window], self.patch_size),
            resize_map(inputs.depth[window], self.patch_size),
            resize_map(inputs.normal[window], self.patch_size),
        )

    def positions(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Global coordinates from each window's pixel origin: fractions where windows overlap."""
        tokens = self.config.model.tokens
        return np.asarray(grids.token_positions(windows.origins, windows.patch, tokens))

    def resize_to_window(
        self, x: Float[np.ndarray, "h w C"], windows: Grid
    ) -> Float[np.ndarray, "H W C"]:
        """Resized with pixel centres at one half."""
        return resize_map(x, windows.patch)

    def window_map(
        self, offset: Float[np.ndarray, "h w C"], prior: np.ndarray | LazyMap, windows: Grid, k: int
    ) -> Float[np.ndarray, "H W C"]:
        """The offset alone."""
        return self.resize_to_window(offset, windows)

    def blend_weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """Falls from the centre towards the border."""
        return grids.centre_weight(*windows.patch)

    def add_prior(
        self, merged: Float[np.ndarray, "*S"], prior: Float[np.ndarray, "*S"]
    ) -> Float[np.ndarray, "*S"]:
        """The coarse map plus the merged offsets."""
        return prior + merged

    def unit_normals(self, normal: Normal) -> Normal:
        """Normals of length one; a zero vector becomes one towards the camera."""
        return unit_normals(normal)

    def restore_size(
        self, x: Float[np.ndarray, "H W *C"], size: tuple[int, int]
    ) -> Float[np.ndarray, "h w *C"]:
        """The map itself: its size was never changed."""
        return x


class OfficialMode(Mode):
    """The released code's method; refined depth is the relative disparity that it writes."""

    def __init__(self, config: Config):
        require(
            config.prior.kind == "disparity",
            "official fidelity takes relative disparity, but these weights take metric depth: "
            "use --fidelity exact",
        )
        self.config = config
        self.patch_size = config.model.patch_size

    def working_image(self, image: Image, grid: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """The image, shrunk to a multiple of the grid."""
        height, width = image.shape[:2]
        rows, cols = grid
        grids.cover_image(height, width, rows, cols)  # fails where the grid is finer than the image
        return resize.resize_linear(image, height - height % rows, width - width % cols)

    def prepare(
        self, image: Image, coarse_depth: np.ndarray, coarse_normal: np.ndarray
    ) -> RefinerInputs:
        """Divide disparity by its maximum; coarse maps of another size are resized."""
        _check_any_size(coarse_depth, (), "coarse depth")
        _check_any_size(coarse_normal, (3,), "coarse normal")
        size = image.shape[:2]
        depth = coarse_depth.astype(np.float32)
        depth = depth / (depth.max() + np.float32(1e-8))
        depth = resize.resize_linear(depth, *size)
        normal = resize.resize_linear(coarse_normal.astype(np.float32), *size)
        return RefinerInputs(image, depth, self.unit_normals(normal))

    def window_inputs(self, inputs: RefinerInputs, windows: Grid, k: int) -> WindowInputs:
        """The image with corners on corners, the coarse maps averaged over their pixels."""
        crop = inputs.image[windows.window(k)].astype(np.float32) / np.float32(255)
        return WindowInputs(
            resize.resize_corners(crop, *self.patch_size),
            self._crop_prior(inputs.depth, windows, k),
            self._crop_prior(inputs.normal, windows, k),
        )

    def _crop_prior(self, prior: np.ndarray, windows: Grid, k: int) -> np.ndarray:
        """Window k of a coarse map, whose size may differ from that of the image."""
        row_scale = prior.shape[0] / windows.image_size[0]
        col_scale = prior.shape[1] / windows.image_size[1]
        top, left = windows.origins[k].tolist()
        height, width = windows.patch
        box = (
            top * row_scale,
            left * col_scale,
            (top + height) * row_scale,
            (left + width) * col_scale,
        )
        return resize.crop_average(prior, box, *self.patch_size)

    def positions(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Positions as if windows lay side by side, also where they overlap."""
        lattice = np.indices((len(windows.tops), len(windows.lefts))).reshape(2, -1).T
        tokens = self.config.model.tokens
        return np.asarray(grids.token_positions(lattice, (1, 1), tokens))

    def resize_to_window(
        self, x: Float[np.ndarray, "h w C"], windows: Grid
    ) -> Float[np.ndarray, "H W C"]:
        """Resized with corners on corners."""
        return resize.resize_corners(x, *windows.patch)

    def window_map(
        self, offset: Float[np.ndarray, "h w C"], prior: np.ndarray | LazyMap, windows: Grid, k: int
    ) -> Float[np.ndarray, "H W C"]:
        """The offset plus the coarse map at the model's patch size, resized together."""
        crop = self._crop_prior(prior, windows, k)
        return self.resize_to_window(offset + crop.reshape(offset.shape), windows)

    def blend_weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """One everywhere: a plain mean."""
        return np.ones(windows.patch, np.float32)

    def add_prior(
        self, merged: Float[np.ndarray, "*S"], prior: Float[np.ndarray, "..."]
    ) -> Float[np.ndarray, "*S"]:
        """The merged windows, which contain the coarse map already."""
        return merged

    def unit_normals(self, normal: Normal) -> Normal:
        """Normals of length one, however short they were."""
        return unit_normals(normal, 1e-12)

    def restore_size(
        self, x: Float[np.ndarray, "H W *C"], size: tuple[int, int]
    ) -> Float[np.ndarray, "h w *C"]:
        """Resized back to the size of the user's image."""
        return resize.resize_linear(x, *size)


def _check_any_size(values: np.ndarray, channels: tuple[int, ...], name: str) -> None:
    """Fail unless a coarse map of any size has these channels and only finite floats."""
    require(
        values.ndim == 2 + len(channels) and values.shape[2:] == channels and values.size > 0,
        f"{name} has shape {values.shape}: it must be {('H', 'W', *channels)}",
    )
    check_map(values, values.shape, name)


MODES: dict[str, type[Mode]] = {"exact": ExactMode, "official": OfficialMode}
