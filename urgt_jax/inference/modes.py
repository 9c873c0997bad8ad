"""Two ways to cut a picture into windows and put refined ones together: the paper's, the code's.

`Exact` is the paper: global positions of every token, one pixel geometry for picture and priors,
offsets added to untouched coarse maps. `Official` repeats the released inference code
(src/models/URGT.py, tools/infer.py), whose steps do not line up; what is plainly broken there is
done right (docs/fidelity.md has the list).
"""

from typing import NamedTuple, Protocol

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
UNITS = {"disparity": "disparity (1 / depth, at any scale)", "depth": "metres"}


class RefinerInputs(NamedTuple):
    """A picture and its priors, from which windows are cut."""

    image: Image
    depth: Float[np.ndarray, "H W"] | LazyMap  # in the network's unit
    normal: Float[np.ndarray, "H W 3"] | LazyMap  # unit length
    unit: PriorUnit = PriorUnit(0.0, 1.0)  # what depth was before

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.image.shape[:2]


class Mode(Protocol):
    """What the two ways differ in."""

    def view(self, image: Image, split: tuple[int, int]) -> Image:
        """The picture that is worked on, rows and columns of patches given."""

    def prepare(self, view: Image, depth, normal) -> RefinerInputs:
        """Picture and coarse maps as the network takes them; fails on a wrong shape or NaN."""

    def cut(self, maps: RefinerInputs, windows: Grid, k: int) -> tuple[np.ndarray, ...]:
        """Image, depth and normal of window k at the process shape."""

    def spots(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Rows and columns of every window's tokens, counted from 1."""

    def patch(self, offset: Float[np.ndarray, "h w C"], prior, windows: Grid, k: int):
        """What is put at window k, from offsets at the process shape and a whole coarse map."""

    def weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """How much each pixel of a window counts where windows overlap."""

    def refined(self, placed: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """Refined values from what was put together and the coarse map in the same place."""

    def unit(self, normal: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normals of length one."""

    def finish(self, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map at the size of the user's picture."""


class ExactMode(Mode):
    """The paper's way."""

    def __init__(self, config: Config):
        self.config, self.patch_size = config, config.model.patch_size

    def view(self, image: Image, split: tuple[int, int]) -> Image:
        """The picture as it is."""
        return image

    def prepare(self, view: Image, depth, normal) -> RefinerInputs:
        """Depth is brought into the network's unit; maps must have the picture's own size."""
        size, c = view.shape[:2], self.config
        ends = np.float32(map_range(depth, size, "coarse depth"))
        require(
            ends[1] > 0,
            f"coarse depth is nowhere above 0: these weights expect {UNITS[c.prior.kind]}",
        )
        require(
            any(map_range(normal, (*size, 3), "coarse normal")),
            "coarse normal is 0 everywhere: give unit vectors (x right, y down, z forward)",
        )
        own = to_network_unit(ends, c.prior, c.data.max_depth)[1]

        def brought(x: np.ndarray) -> np.ndarray:
            return (x.astype(np.float32) - np.float32(own.low)) / np.float32(own.scale)

        turned = LazyMap(normal, lambda x: unit_normals(x.astype(np.float32)))
        return RefinerInputs(view, LazyMap(depth, brought), turned, own)

    def cut(self, maps: RefinerInputs, windows: Grid, k: int) -> tuple[np.ndarray, ...]:
        """All three with the same geometry, pixel centres at one half."""
        return tuple(resize_map(x[windows.window(k)], self.patch_size) for x in maps[:3])

    def spots(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Global coordinates from each window's pixel origin, fractions where windows overlap."""
        return np.asarray(
            grids.token_positions(windows.origins, windows.patch, self.config.model.tokens)
        )

    def patch(self, offset: Float[np.ndarray, "h w C"], prior, windows: Grid, k: int):
        """The offsets alone, at the window's size."""
        return resize_map(offset, windows.patch)

    def weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """Falls from the centre towards the border."""
        return grids.centre_weight(*windows.patch)

    def refined(self, placed: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """The coarse map itself where offsets are zero."""
        return prior + placed

    def unit(self, normal: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normals of length one, towards the camera where there is none."""
        return unit_normals(normal)

    def finish(self, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The map as it is."""
        return x


class OfficialMode(Mode):
    """The released code's way; depth stays relative, as it writes it."""

    def __init__(self, config: Config):
        require(
            config.prior.kind == "disparity",
            "official fidelity takes relative disparity, these weights metric depth: "
            "use --fidelity exact",
        )
        self.config, self.patch_size = config, config.model.patch_size

    def view(self, image: Image, split: tuple[int, int]) -> Image:
        """Shrunk to a multiple of the split."""
        grids.cover_image(
            *image.shape[:2], *split
        )  # fails where the split is finer than the picture
        rows, cols = (side - side % n for side, n in zip(image.shape, split, strict=False))
        return resize.resize_linear(image, rows, cols)

    def prepare(self, view: Image, depth, normal) -> RefinerInputs:
        """Disparity over its maximum; coarse maps of another size are resized."""
        for x, channels, what in ((depth, (), "depth"), (normal, (3,), "normal")):
            require(
                x.shape[2:] == channels and x.ndim == 2 + len(channels) and x.size > 0,
                f"coarse {what} has shape {x.shape}: it must be {('H', 'W', *channels)}",
            )
            check_map(x, x.shape, f"coarse {what}")
        depth = depth.astype(np.float32)
        depth = resize.resize_linear(depth / (depth.max() + np.float32(1e-8)), *view.shape[:2])
        normal = resize.resize_linear(normal.astype(np.float32), *view.shape[:2])
        return RefinerInputs(view, depth, self.unit(normal))

    def unit(self, normal: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """Normals of length one, however short they were."""
        return unit_normals(normal, 1e-12)

    def cut(self, maps: RefinerInputs, windows: Grid, k: int) -> tuple[np.ndarray, ...]:
        """The picture with corners on corners, priors by averages over their pixels."""
        crop = maps.image[windows.window(k)].astype(np.float32) / np.float32(255)
        return (
            resize.resize_corners(crop, *self.patch_size),
            self._prior(maps.depth, windows, k),
            self._prior(maps.normal, windows, k),
        )

    def _prior(self, prior: np.ndarray, windows: Grid, k: int) -> np.ndarray:
        """A window of a coarse map, which may have a size of its own."""
        rows, cols = (a / b for a, b in zip(prior.shape, windows.image_size, strict=False))
        (top, left), (h, w) = windows.origins[k].tolist(), windows.patch
        box = top * rows, left * cols, (top + h) * rows, (left + w) * cols
        return resize.crop_average(prior, box, *self.patch_size)

    def spots(self, windows: Grid) -> Float[np.ndarray, "P N 2"]:
        """Windows lie side by side, also where they overlap."""
        lattice = np.indices((len(windows.tops), len(windows.lefts))).reshape(2, -1).T
        tokens = self.config.model.tokens
        return np.asarray(grids.token_positions(lattice, (1, 1), tokens))

    def patch(self, offset: Float[np.ndarray, "h w C"], prior, windows: Grid, k: int):
        """Offset plus the prior at the process shape, both resampled once more."""
        total = offset.copy()
        values = self._prior(prior, windows, k)
        values = values[..., None] if values.ndim == 2 else values
        total[..., : values.shape[-1]] += values
        return resize.resize_corners(total, *windows.patch)

    def weight(self, windows: Grid) -> Float[np.ndarray, "h w"]:
        """The plain mean."""
        return np.ones(windows.patch, np.float32)

    def refined(self, placed: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """The prior is in it."""
        return placed

    def finish(self, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Back to the picture's own size where that is no multiple of the split."""
        return resize.resize_linear(x, *size)


MODES: dict[str, type] = {"exact": ExactMode, "official": OfficialMode}
