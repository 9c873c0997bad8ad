"""The files of UnrealStereo4K as its authors publish them: splits, images, disparity, cameras."""

from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Float, UInt8

from urgt_jax.data.unreal4k.records import Frame
from urgt_jax.errors import UserError, require
from urgt_jax.files import find_paths, read_text
from urgt_jax.images.files import SMALLEST, read_image, read_map

# Names of the split files: PatchFusion's, then those of SMD-Nets where they differ.
SPLIT_FILES = {
    "train": ("train.txt",),
    "val": ("val.txt",),
    "test_in": ("test_in.txt", "test.txt"),
    "test_out": ("test_out.txt", "out_test.txt"),
}


class FrameFiles(NamedTuple):
    """The files of a frame."""

    source: str
    scene: str
    number: str

    @property
    def name(self) -> str:
        """Scene and number, as in 00000_00083."""
        return f"{self.scene}_{self.number}"

    def path(self, kind: str, suffix: str) -> Path:
        """The file of a kind, such as Disp0."""
        return Path(self.source) / self.scene / kind / f"{self.number}{suffix}"


class StereoCamera(NamedTuple):
    """A camera of a stereo pair."""

    intrinsics: Float[np.ndarray, "4"]  # float64, fx, fy, cx, cy, pixels
    x: float  # position along the baseline, metres


def default_splits(source: Path) -> Path:
    """The folder of split files in the folder of the scenes."""
    for folder in (source / "splits", source / "filenames"):
        if folder.is_dir():
            return folder
    return source


def read_splits(path: Path, source: Path) -> dict[str, list[FrameFiles]]:
    """The frames of each split that has a file in a folder, or of a single split file."""
    files = [path] if path.is_file() else find_paths(path, "*.txt")
    by_name = {file.name: file for file in files}
    splits = {}
    for split, names in SPLIT_FILES.items():
        for name in names:
            if name in by_name:
                splits[split] = read_split(by_name[name], source)
                break
    if not splits:
        names = ", ".join(name for names in SPLIT_FILES.values() for name in names)
        raise UserError(
            f"{path} is neither a split file nor a folder with split files ({names}). Pass --splits"
        )
    return splits


def read_split(path: Path, source: Path) -> list[FrameFiles]:
    """The frames of a split file. Each line begins with SCENE/Image0/NUMBER.png."""
    frames = {}
    lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.split()[0].split("/")
        require(
            len(parts) == 3
            and parts[1] == "Image0"
            and "." in parts[2]
            and parts[0] not in ("", ".", ".."),
            f"{path}, line {number} is not 'SCENE/Image0/N.png SCENE/Image1/N.png ...': "
            f"{line[:60]!r}",
        )
        frame = FrameFiles(str(source), parts[0], parts[2].rsplit(".", 1)[0])
        require(frame not in frames, f"{path}, line {number} repeats a frame: {line[:60]!r}")
        frames[frame] = number
    require(len(frames) > 0, f"{path} is empty. It must list the frames of a split")
    return list(frames)


def read_frame(files: FrameFiles) -> Frame:
    """A frame, all of it checked; an error names the file in one line."""
    disparity = read_disparity(files.path("Disp0", ".npy"))
    image = read_left_image(files, disparity.shape)
    left_path = files.path("Extrinsics0", ".txt")
    right_path = files.path("Extrinsics1", ".txt")
    left = read_camera(left_path)
    right = read_camera(right_path)
    baseline = abs(left.x - right.x)
    require(baseline > 0, f"{left_path} and {right_path} have no baseline")
    intrinsics = left.intrinsics.astype(np.float32)
    return Frame(files.name, image, disparity, intrinsics, baseline)


def read_disparity(path: Path) -> Float[np.ndarray, "H W"]:
    """The disparity of the left image, pixels, float32."""
    disparity = read_map(path, "disparity")
    require(
        disparity.ndim == 2 and disparity.dtype.kind == "f",
        f"{path} has shape {disparity.shape} and dtype {disparity.dtype}, not float [H, W]",
    )
    require(
        min(disparity.shape) >= SMALLEST,
        f"{path} is {disparity.shape} pixels. The least is {SMALLEST} a side",
    )
    disparity = disparity.astype(np.float32)
    wrong = ~np.isfinite(disparity) | (disparity < 0)
    require(
        not wrong.any(), f"{path} has {int(wrong.sum())} values that are NaN, infinite or negative"
    )
    return disparity


def read_left_image(files: FrameFiles, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The left image: a PNG, or PatchFusion's .raw, bytes in the order blue, green, red."""
    png = files.path("Image0", ".png")
    raw = files.path("Image0", ".raw")
    if raw.is_file() and not png.is_file():
        values = np.fromfile(raw, np.uint8)
        height, width = size
        require(
            values.size == height * width * 3,
            f"{raw} has {values.size} bytes, not {height} x {width} x 3",
        )
        return np.ascontiguousarray(values.reshape(height, width, 3)[..., ::-1])
    image = read_image(png)
    require(image.shape[:2] == size, f"{png} is {image.shape[:2]} pixels, its disparity {size}")
    return image


def read_camera(path: Path) -> StereoCamera:
    """A camera file: the 3 x 3 matrix in one line, the 3 x 4 matrix from the world in the next."""
    text = read_text(path, "camera file")
    try:
        first, second = text.splitlines()[:2]
        matrix = np.array(first.split(), np.float64)
        pose = np.array(second.split(), np.float64)
    except ValueError as error:
        raise UserError(f"{path} is not two lines of numbers: {error}") from error
    require(
        matrix.size == 9 and pose.size == 12,
        f"{path} has {matrix.size} and {pose.size} numbers, not 9 and 12",
    )
    require(
        bool(np.isfinite(matrix).all() and np.isfinite(pose).all()),
        f"{path} has numbers that are NaN or infinite",
    )
    fx, fy = matrix[0], matrix[4]
    require(
        fx > 0 and fy > 0, f"{path} has the focal lengths {fx:g} and {fy:g}. They must be above 0"
    )
    return StereoCamera(np.array([fx, fy, matrix[2], matrix[5]]), float(pose[3]))
