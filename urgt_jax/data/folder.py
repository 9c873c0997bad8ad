"""Pictures with measured depth in files: what all such sets share, and a folder of one's own."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.config import require
from urgt_jax.data import readers
from urgt_jax.data.samples import WHOLE, Sample, Window, moved
from urgt_jax.errors import UserError
from urgt_jax.pictures import SUFFIXES, read_image


class Item(NamedTuple):
    """The files of one picture."""

    name: str
    image: Path
    depth: Path
    camera: Path | None = None


class Camera(NamedTuple):
    """What turns the numbers of a depth file into metres and pixels into rays."""

    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy; pixel centres at one half
    stereo: float | None = None  # focal length times baseline, pixels x metres
    offset: float = 0.0  # pixels, what a stored disparity lacks


class Files:
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
        return readers.picture_size(self.items[index].image)

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
        return sample(image, depth, camera, window, self._scored(size), str(item.depth))

    def _items(self) -> list[Item]:
        raise NotImplementedError

    def _values(self, item: Item, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        raise NotImplementedError

    def _camera(self, item: Item, size: tuple[int, int]) -> Camera:
        raise NotImplementedError

    def _scored(self, size: tuple[int, int]) -> Window:
        return WHOLE


def sample(
    image: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "h w"],
    camera: Camera,
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
        intrinsics = moved(camera.intrinsics, window, inside.shape)
    depth = np.where(valid, depth, 0).astype(np.float32)
    return Sample(np.ascontiguousarray(image[window]), depth, valid, intrinsics, camera.stereo)


def found(path: Path, pattern: str) -> list[Path]:
    """The files of a pattern, of which there must be some."""
    files = sorted(p for p in path.glob(pattern) if not p.name.startswith("."))
    if not files:
        inside = sorted(p.name for p in path.iterdir())
        there = ", ".join(inside[:3]) if inside else "nothing"
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise UserError(f"no {pattern} in {path}, which holds {there}{more}")
    return files


def one_split(layout: str, split: str) -> None:
    """Fails if a split is asked for where there is none."""
    require(not split, f"{layout} has no splits: leave out the split {split}")


class Folder(Files):
    """Pictures of one's own, NAME.png or .jpg, with NAME_depth.npy, .pfm or .png beside them.

    Cameras and the scale of PNGs stand in dataset.json for all, in NAME.json for one.
    """

    LENGTH = "a number above 0"
    NUMBERS = {
        "depth_scale": LENGTH,
        "baseline": LENGTH,
        "intrinsics": "[fx, fy, cx, cy] with fx and fy above 0",
        "fx": LENGTH,
        "fy": LENGTH,
        "cx": "a number",
        "cy": "a number",
    }

    def _items(self) -> list[Item]:
        one_split("a folder of pictures", self.split)
        images = [p for p in sorted(self.path.iterdir()) if self._is_picture(p)]
        if not images:
            raise UserError(f"{self.path} holds no picture ({', '.join(SUFFIXES)})")
        stems = [p.stem for p in images]
        twice = next((s for s in stems if stems.count(s) > 1), None)
        require(twice is None, f"two pictures in {self.path} are named {twice}: rename one")
        self.common = self._told(self.path / "dataset.json")
        return [Item(p.stem, p, self._beside(p)) for p in images]

    def _is_picture(self, path: Path) -> bool:
        other = path.name.startswith(".") or path.stem.endswith("_depth")
        return path.suffix.lower() in SUFFIXES and not other

    def _beside(self, image: Path) -> Path:
        """The one depth file of a picture."""
        names = [image.with_name(f"{image.stem}_depth{end}") for end in (".npy", ".pfm", ".png")]
        there = [path for path in names if path.is_file()]
        if len(there) != 1:
            many, choice = ("several depth maps", there) if there else ("no depth map", names)
            wanted = ", ".join(path.name for path in choice)
            raise UserError(f"{many} beside {image}: have one of {wanted} there")
        return there[0]

    def _told(self, path: Path) -> dict[str, np.ndarray]:
        """The numbers of a JSON file, if there is one; text under other names is a note."""
        if not path.exists():
            return {}
        told = {}
        for key, value in readers.json_object(path).items():
            if key in self.NUMBERS:
                told[key] = self._number(path, key, value)
            elif not isinstance(value, str):
                raise UserError(f"{path}: {key} is unknown, there are {', '.join(self.NUMBERS)}")
        single = [told.pop(key) for key in ("fx", "fy", "cx", "cy") if key in told]
        require(len(single) in (0, 4), f"{path}: fx, fy, cx and cy belong together")
        return told | ({"intrinsics": np.array(single)} if single else {})

    def _number(self, path: Path, key: str, value) -> np.ndarray:
        shape = (4,) if key == "intrinsics" else ()
        try:
            numbers = np.asarray(value)
        except ValueError:
            numbers = np.array("uneven lists")
        fits = numbers.shape == shape and numbers.dtype.kind in "if"
        fits = fits and bool(np.isfinite(numbers).all())
        if fits and key not in ("cx", "cy"):
            fits = numbers.flat[:2].min() > 0
        require(fits, f"{path}: {key} must be {self.NUMBERS[key]}, not {str(value)[:60]}")
        return numbers.astype(np.float64)

    def _all_told(self, item: Item) -> dict[str, np.ndarray]:
        return self.common | self._told(item.image.with_suffix(".json"))

    def _values(self, item: Item, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        if item.depth.suffix == ".npy":
            return readers.npy(item.depth)
        if item.depth.suffix == ".pfm":
            return readers.pfm(item.depth)
        scale = self._all_told(item).get("depth_scale")
        require(
            scale is not None,
            f'{item.depth} is a PNG: say {{"depth_scale": 1000}} in {self.path / "dataset.json"} '
            "if its numbers are millimetres",
        )
        return readers.read_png16(item.depth) / np.float32(scale)

    def _camera(self, item: Item, size: tuple[int, int]) -> Camera:
        told = self._all_told(item)
        intrinsics, baseline = told.get("intrinsics"), told.get("baseline")
        require(
            baseline is None or intrinsics is not None,
            f"{item.image}: a baseline is told, but no intrinsics",
        )
        return Camera(intrinsics, None if baseline is None else float(intrinsics[0] * baseline))
