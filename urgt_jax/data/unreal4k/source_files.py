"""UnrealStereo4K as its authors hand it out: split files, pictures, disparity and calibration."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from urgt_jax.data.unreal4k.records import Frame
from urgt_jax.errors import UserError
from urgt_jax.images.files import SMALLEST, read_image, read_map

# Of a split file: PatchFusion's name, then SMD-Nets'.
SPLITS = {
    "train": ("train.txt",),
    "val": ("val.txt",),
    "test_in": ("test_in.txt", "test.txt"),
    "test_out": ("test_out.txt", "out_test.txt"),
}


class FrameFiles(NamedTuple):
    """Where a frame's files lie."""

    source: str
    scene: str
    number: str

    @property
    def name(self) -> str:
        """Scene and number, as in 00000_00083."""
        return f"{self.scene}_{self.number}"

    def file(self, kind: str, ending: str) -> Path:
        """The file of a kind, such as Disp0."""
        return Path(self.source) / self.scene / kind / f"{self.number}{ending}"


def read_splits(path: Path, source: Path) -> dict[str, list[FrameFiles]]:
    """The frames of every split that has a file in the folder, or of the one split file."""
    files = [path] if path.is_file() else sorted(path.glob("*.txt"))
    known = {file.name: file for file in files}
    found = {}
    for split, names in SPLITS.items():
        name = next((n for n in names if n in known), None)
        if name:
            found[split] = _places(known[name], source)
    if not found:
        names = ", ".join(name for names in SPLITS.values() for name in names)
        raise UserError(f"{path} is no split file, nor a folder of any ({names}): give --splits")
    return found


def _places(path: Path, source: Path) -> list[FrameFiles]:
    """The frames of a split file, of which each line names S/Image0/N.png first."""
    found, seen = [], set()
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()[0].split("/")
        right = len(parts) == 3 and parts[1] == "Image0" and "." in parts[2]
        place = FrameFiles(str(source), parts[0], parts[2].rsplit(".", 1)[0]) if right else None
        if place is None or place in seen:
            why = "names a frame twice" if right else "is no 'S/Image0/N.png S/Image1/N.png ...'"
            raise UserError(f"{path}, line {number} {why}: {line[:60]!r}")
        seen.add(place)
        found.append(place)
    if not found:
        raise UserError(f"{path} is empty: it must name the frames of a split")
    return found


def read_frame(place: FrameFiles) -> Frame:
    """A frame from its files, all of it checked; fails in one line that names the file."""
    path = place.file("Disp0", ".npy")
    disparity = read_map(path, "disparity")
    if disparity.ndim != 2 or disparity.dtype.kind != "f":
        raise UserError(f"{path} has shape {disparity.shape} and dtype {disparity.dtype}, not "
            "float [H, W]")  # fmt: skip
    disparity = disparity.astype(np.float32)
    if min(disparity.shape) < SMALLEST:
        raise UserError(f"{path} is {disparity.shape} pixels: too small")
    wrong = ~np.isfinite(disparity) | (disparity < 0)
    if wrong.any():
        raise UserError(f"{path} has {int(wrong.sum())} values that are NaN, infinite or negative")
    image = _image(place, disparity.shape)
    left, right = (_camera(place.file(f"Extrinsics{i}", ".txt")) for i in (0, 1))
    baseline = abs(float(left[1][3] - right[1][3]))
    if not baseline > 0:
        raise UserError(f"{place.file('Extrinsics0', '.txt')} and the right one have no baseline")
    k = left[0]
    intrinsics = np.array([k[0], k[4], k[2], k[5]], np.float32)
    return Frame(place.name, image, disparity, intrinsics, baseline)


def _image(place: FrameFiles, size: tuple[int, int]) -> np.ndarray:
    """The left picture: PNG, or PatchFusion's .raw bytes in the order blue, green, red."""
    path, raw = place.file("Image0", ".png"), place.file("Image0", ".raw")
    if path.is_file() or not raw.is_file():
        image = read_image(path)
        if image.shape[:2] != size:
            raise UserError(f"{path} is {image.shape[:2]} pixels, its disparity {size}")
        return image
    values = np.fromfile(raw, np.uint8)
    if values.size != size[0] * size[1] * 3:
        raise UserError(f"{raw} has {values.size} bytes, not {size[0]} x {size[1]} x 3")
    return np.ascontiguousarray(values.reshape(*size, 3)[..., ::-1])


def _camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 3 x 3 matrix of the camera and the 3 x 4 one from world to camera, row by row."""
    if not path.is_file():
        raise UserError(f"no extrinsics at {path}")
    try:
        first, second = path.read_text().splitlines()[:2]
        k, world = (np.array(line.split(), np.float64) for line in (first, second))
    except ValueError as error:
        raise UserError(f"{path} is not two lines of numbers: {error}") from error
    if (k.size, world.size) != (9, 12) or not (np.isfinite(k).all() and np.isfinite(world).all()):
        raise UserError(f"{path} has {k.size} and {world.size} numbers, not 9 and 12")
    if k[0] <= 0 or k[4] <= 0:
        raise UserError(f"{path} has the focal lengths {k[0]:g} and {k[4]:g}: not above 0")
    return k, world
