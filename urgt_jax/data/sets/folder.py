"""A folder of one's own images with measured depth."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, reject_split
from urgt_jax.errors import UserError, require
from urgt_jax.images.depth_formats import open_npy, open_pfm, read_json_object, read_png16
from urgt_jax.images.files import SUFFIXES


class Folder(FileDataSet):
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

    def _items(self) -> list[ImageFiles]:
        reject_split("a folder of pictures", self.split)
        images = [p for p in sorted(self.path.iterdir()) if self._is_picture(p)]
        if not images:
            raise UserError(f"{self.path} holds no picture ({', '.join(SUFFIXES)})")
        stems = [p.stem for p in images]
        twice = next((s for s in stems if stems.count(s) > 1), None)
        require(twice is None, f"two pictures in {self.path} are named {twice}: rename one")
        self.common = self._told(self.path / "dataset.json")
        return [ImageFiles(p.stem, p, self._beside(p)) for p in images]

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
        for key, value in read_json_object(path).items():
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

    def _all_told(self, item: ImageFiles) -> dict[str, np.ndarray]:
        return self.common | self._told(item.image.with_suffix(".json"))

    def _values(self, item: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        if item.depth.suffix == ".npy":
            return open_npy(item.depth)
        if item.depth.suffix == ".pfm":
            return open_pfm(item.depth)
        scale = self._all_told(item).get("depth_scale")
        require(
            scale is not None,
            f'{item.depth} is a PNG: say {{"depth_scale": 1000}} in {self.path / "dataset.json"} '
            "if its numbers are millimetres",
        )
        return read_png16(item.depth) / np.float32(scale)

    def _camera(self, item: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        told = self._all_told(item)
        intrinsics, baseline = told.get("intrinsics"), told.get("baseline")
        require(
            baseline is None or intrinsics is not None,
            f"{item.image}: a baseline is told, but no intrinsics",
        )
        return DepthCamera(
            intrinsics, None if baseline is None else float(intrinsics[0] * baseline)
        )
