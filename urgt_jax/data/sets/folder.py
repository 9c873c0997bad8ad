"""A folder of your own images with measured depth."""

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, check_names
from urgt_jax.errors import UserError, require
from urgt_jax.files import read_json_object
from urgt_jax.images.depth_formats import open_npy, open_pfm, read_png16
from urgt_jax.images.files import SUFFIXES

DEPTH_SUFFIXES = (".npy", ".pfm", ".png")
COMMON_CALIBRATION = "dataset.json"
ABOVE_0 = "a number above 0"
CALIBRATION_FIELDS = {
    "depth_scale": ABOVE_0,
    "baseline": ABOVE_0,
    "intrinsics": "[fx, fy, cx, cy] with fx and fy above 0",
    "fx": ABOVE_0,
    "fy": ABOVE_0,
    "cx": "a number",
    "cy": "a number",
}


class Folder(FileDataSet):
    """Your own images, NAME.png or .jpg, each with NAME_depth.npy, .pfm or .png next to it.

    NAME_normal.npy holds true normals, if there are any. dataset.json holds the camera and the
    scale of PNG files, NAME.json those of one image.
    """

    def list_images(self) -> list[ImageFiles]:
        files = sorted(self.path.iterdir())
        paths = [path for path in files if is_photograph(path)]
        require(len(paths) > 0, f"{self.path} holds no image ({', '.join(SUFFIXES)})")
        depths: dict[str, list[Path]] = {}
        for path in files:
            if path.suffix.lower() in DEPTH_SUFFIXES:
                depths.setdefault(path.stem, []).append(path)
        images = []
        check_names(paths)
        for path in paths:
            candidates = depths.get(f"{path.stem}_depth", [])
            problem = depth_problem(path, candidates)
            if problem:
                self.problems[path.stem] = problem
            depth = candidates[0] if candidates else path.with_name(f"{path.stem}_depth.npy")
            normal = path.with_name(f"{path.stem}_normal.npy")
            if not normal.is_file():
                normal = None
            images.append(ImageFiles(path.stem, path, depth, normal=normal))
        if len(self.problems) == len(images):
            raise UserError(self.problems[images[0].name])
        self.common_calibration = read_json_calibration(self.path / COMMON_CALIBRATION)
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        suffix = files.depth.suffix.lower()
        if suffix == ".npy":
            return open_npy(files.depth)
        if suffix == ".pfm":
            return open_pfm(files.depth)
        calibration = self._calibration(files)
        require(
            "depth_scale" in calibration,
            f"{files.depth} is a PNG and needs a scale. If it holds millimetres, put "
            f'{{"depth_scale": 1000}} into {self.path / COMMON_CALIBRATION}',
        )
        return read_png16(files.depth) / np.float32(calibration["depth_scale"])

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        calibration = self._calibration(files)
        intrinsics = calibration.get("intrinsics")
        if "baseline" not in calibration:
            return DepthCamera(intrinsics)
        require(
            intrinsics is not None,
            f"{files.image} has a baseline but no intrinsics. Add its intrinsics",
        )
        return DepthCamera(intrinsics, float(intrinsics[0] * calibration["baseline"]))

    def _calibration(self, files: ImageFiles) -> dict[str, np.ndarray]:
        own = read_json_calibration(files.image.with_suffix(".json"))
        return self.common_calibration | own


def is_photograph(path: Path) -> bool:
    """Whether a file is an image and not hidden or a depth map."""
    if path.name.startswith(".") or path.stem.endswith("_depth"):
        return False
    return path.suffix.lower() in SUFFIXES


def depth_problem(image: Path, depths: list[Path]) -> str:
    """What is wrong with the depth maps next to an image; empty if there is exactly one."""
    if len(depths) == 1:
        return ""
    if not depths:
        names = ", ".join(f"{image.stem}_depth{suffix}" for suffix in DEPTH_SUFFIXES)
        return f"{image} has no depth map. Put one of {names} next to it"
    names = ", ".join(path.name for path in depths)
    return f"{image} has several depth maps. Keep one of {names}"


def read_json_calibration(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a JSON file, none if it does not exist. Text under other names is a note."""
    if not path.exists():
        return {}
    numbers = {}
    for name, value in read_json_object(path).items():
        if name in CALIBRATION_FIELDS:
            numbers[name] = parse_numbers(path, name, value)
        elif not isinstance(value, str):
            known = ", ".join(CALIBRATION_FIELDS)
            raise UserError(f"{path}: {name} is unknown. The known names are {known}")
    single = [numbers.pop(name) for name in ("fx", "fy", "cx", "cy") if name in numbers]
    require(len(single) in (0, 4), f"{path}: fx, fy, cx and cy belong together")
    if single:
        numbers["intrinsics"] = np.array(single)
    return numbers


def parse_numbers(path: Path, name: str, value: object) -> Float[np.ndarray, "..."]:
    """A value of a JSON file as float64; a user error unless it is what its name stands for."""
    shape = (4,) if name == "intrinsics" else ()
    try:
        numbers = np.asarray(value)
    except ValueError:  # lists of different lengths
        numbers = np.array("")
    valid = numbers.shape == shape and numbers.dtype.kind in "if" and np.isfinite(numbers).all()
    if valid and name not in ("cx", "cy"):
        valid = numbers.flat[:2].min() > 0  # fx and fy, or the only number
    require(valid, f"{path}: {name} is {str(value)[:60]}. It must be {CALIBRATION_FIELDS[name]}")
    return numbers.astype(np.float64)
