"""What all data sets of image files share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.data.samples import WHOLE, Sample, Window, crop_intrinsics
from urgt_jax.errors import UserError, require
from urgt_jax.images.depth_formats import image_size
from urgt_jax.images.files import read_image


class ImageFiles(NamedTuple):
    """The files of one picture."""

    name: str
    image: Path
    depth: Path
    camera: Path | None = None


class DepthCamera(NamedTuple):
    """What turns the numbers of a depth file into metres and pixels into rays."""

    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy; pixel centres at one half
    stereo: float | None = None  # focal length times baseline, pixels x metres
    offset: float = 0.0  # pixels, what a stored disparity lacks


class FileDataSet:
    """Pictures in files; a subclass says where they lie and what their depth files hold."""

    disparity = False  # whether depth files hold disparity in pixels, else metres

    def __init__(self, path: Path, split: str = ""):
        self.path, self.split = path, split
        require(path.is_dir(), f"no folder at {path}: give the folder of the data set")
        self.items = self._items()
        lacking = [
            p for x in self.items for p in (x.image, x.depth, x.camera) if p and not p.exists()
        ]
        if lacking:
            raise UserError(
                f"no {lacking[0]} (missing files: {len(lacking)}): "
                "unpack all archives of the data set"
            )

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """What files that belong to the picture are called by."""
        return self.items[index].name

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return image_size(self.items[index].image)

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """The window of a picture; only a whole picture must have a pixel of known depth."""
        item = self.items[index]
        image = read_image(item.image)
        size = image.shape[:2]
        values, camera = self._values(item, size), self._camera(item, size)
        require(
            values.shape == size,
            f"{item.depth} has the shape {values.shape}, but its picture {item.image.name} has "
            f"{size}: depth must have the picture's own size",
        )
        # No disparity, 0, is infinitely far, which counts as unknown; so does what overflows.
        with np.errstate(divide="ignore", over="ignore"):
            depth = np.asarray(values[window], np.float32)
            if self.disparity:
                depth = np.float32(camera.stereo) / (depth + np.float32(camera.offset))
        return make_sample(image, depth, camera, window, self._scored(size), str(item.depth))

    def _items(self) -> list[ImageFiles]:
        raise NotImplementedError

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        raise NotImplementedError

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        raise NotImplementedError

    def _scored(self, size: tuple[int, int]) -> Window:
        return WHOLE


def make_sample(
    image: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "h w"],
    camera: DepthCamera,
    window: Window,
    scored: Window,
    source: str,
) -> Sample:
    """A sample of a whole picture and a window's depth, unknown if not finite and above 0.

    Depth outside of `scored` counts as unknown too; `source` is what errors call the depth.
    """
    inside = np.zeros(image.shape[:2], bool)
    inside[scored] = True
    valid = np.isfinite(depth) & (depth > 0) & inside[window]
    require(
        bool(valid.any()) or window != WHOLE,
        f"{source} has no pixel of known depth: get it again, or leave the picture out",
    )
    intrinsics = None
    if camera.intrinsics is not None:
        intrinsics = crop_intrinsics(camera.intrinsics, window, inside.shape)
    depth = np.where(valid, depth, 0).astype(np.float32)
    return Sample(np.ascontiguousarray(image[window]), depth, valid, intrinsics, camera.stereo)


def find_files(path: Path, pattern: str) -> list[Path]:
    """The files of a pattern, of which there must be some."""
    files = sorted(p for p in path.glob(pattern) if not p.name.startswith("."))
    if not files:
        inside = sorted(p.name for p in path.iterdir())
        there = ", ".join(inside[:3]) if inside else "nothing"
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise UserError(f"no {pattern} in {path}, which holds {there}{more}")
    return files


def reject_split(layout: str, split: str) -> None:
    """Fails if a split is asked for where there is none."""
    require(not split, f"{layout} has no splits: leave out the split {split}")
