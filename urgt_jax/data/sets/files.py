"""What all data sets of image files share."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, UInt8

from urgt_jax.data.samples import WHOLE, Sample, Window, crop_intrinsics
from urgt_jax.errors import UserError, require
from urgt_jax.files import find_paths
from urgt_jax.images.depth_formats import open_npy
from urgt_jax.images.files import image_size, read_image

SHORTEST_NORMAL = 0.1  # shorter vectors are no normals but filling


class ImageFiles(NamedTuple):
    """The files of one image."""

    name: str
    image: Path
    depth: Path
    camera: Path | None = None
    normal: Path | None = None  # true normals, if the data set has them
    mask: Path | None = None  # where the depth is valid, if a file says so
    scene: str = ""  # what is shown, where several images show the same


class DepthCamera(NamedTuple):
    """The camera of an image, and what converts its disparity into depth."""

    intrinsics: Float[np.ndarray, "4"] | None = None  # fx, fy, cx, cy; pixel centres at one half
    stereo: float | None = None  # focal length times baseline, pixels x metres
    disparity_offset: float = 0.0  # added to the stored disparity, pixels


class FileDataSet:
    """Images with depth in files. A subclass lists the files and reads their depth and cameras."""

    splits: tuple[str, ...] = ()  # empty: the data set has no splits
    default_split = ""
    train_split = ""  # split to train on; empty: the data set has none
    stores_disparity = False  # whether depth files hold disparity in pixels instead of metres

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        self.split = split or self.default_split
        check_choice(path, self.split, self.splits)
        self.problems: dict[str, str] = {}  # by image: why it cannot be read
        self.images = self.list_images()
        self._check_files()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The name of the image, which its coarse maps and predictions have too."""
        return self.images[index].name

    def scene(self, index: int) -> str:
        """The scene that the image shows; empty if the data set has no scenes."""
        return self.images[index].scene

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return image_size(self.images[index].image)

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image. At least one pixel of the whole image must have a known depth."""
        files = self.images[index]
        if files.name in self.problems:
            raise UserError(self.problems[files.name])
        image = read_image(files.image)
        size = image.shape[:2]
        stored = self.read_depth(files, size)
        camera = self.read_camera(files, size)
        require(
            stored.shape == size,
            f"{files.depth} has shape {stored.shape}, but its image {files.image.name} has "
            f"{size}. A depth map must have the size of its image",
        )
        # A disparity of 0 gives infinite depth, which counts as unknown, and so does overflow.
        with np.errstate(divide="ignore", over="ignore"):
            depth = np.asarray(stored[window], np.float32)
            if self.stores_disparity:
                disparity = depth + np.float32(camera.disparity_offset)
                depth = np.float32(camera.stereo) / disparity
        sample = make_sample(
            image, depth, camera, window, self.scored_window(size), str(files.depth)
        )
        if files.normal is None:
            return sample
        normal = self.read_normal(files, size)
        return sample._replace(normal=known_normals(normal[window], sample.valid))

    def list_images(self) -> list[ImageFiles]:
        """The files of all images of the split."""
        raise NotImplementedError

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        """Depth in metres, or disparity in pixels; what is not finite and above 0 is unknown."""
        raise NotImplementedError

    def read_normal(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        """Normals towards the camera: x right, y down, z forward; 0 or not finite where unknown."""
        return open_normals(files.normal, size)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        """The camera of an image."""
        raise NotImplementedError

    def scored_window(self, size: tuple[int, int]) -> Window:
        """The part of an image that is scored; the depth around it counts as unknown."""
        return WHOLE

    def _check_files(self) -> None:
        paths = []
        for files in self.images:
            if files.name not in self.problems:
                paths += [files.image, files.depth, files.camera, files.normal, files.mask]
        check_files(path for path in paths if path is not None)


def check_choice(path: Path, split: str, splits: Collection[str] = ()) -> None:
    """Fail unless the path is a folder, and the split one of those of the data set in it."""
    require(path.is_dir(), f"{path} is not a folder. Pass the folder of the data set")
    if split == "" or split in splits:
        return
    require(len(splits) > 0, f"the data set in {path} has no splits. Leave out {split!r}")
    raise UserError(f"the data set in {path} has no split {split!r}. It has {', '.join(splits)}")


def check_names(images: Iterable[Path]) -> None:
    """Fail if two images of a folder have one name: that of a file without its ending."""
    names = set()
    for image in images:
        require(
            image.stem not in names,
            f"{image.parent} holds two images named {image.stem}. Rename one of them",
        )
        names.add(image.stem)


def check_files(paths: Iterable[Path]) -> None:
    """Fail unless all files of a data set are there."""
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} missing files in all). Unpack all archives "
            "of the data set"
        )


def make_sample(
    image: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "h w"],
    camera: DepthCamera,
    window: Window,
    scored: Window,
    source: str,
) -> Sample:
    """The sample of a window of a whole image, from the depth of that window.

    Depth is unknown where it is not finite and above 0, and outside of the window `scored` of the
    image. `source` names the depth in an error.
    """
    size = image.shape[:2]
    inside = np.zeros(size, bool)
    inside[scored] = True
    valid = np.isfinite(depth) & (depth > 0) & inside[window]
    require(
        bool(valid.any()) or window != WHOLE,
        f"{source} has no pixel of known depth. Download it again or remove the image",
    )
    depth = np.where(valid, depth, 0).astype(np.float32)
    intrinsics = None
    if camera.intrinsics is not None:
        intrinsics = crop_intrinsics(camera.intrinsics, window, size)
    return Sample(np.ascontiguousarray(image[window]), depth, valid, intrinsics, camera.stereo)


def sample_without_depth(image: UInt8[np.ndarray, "H W 3"], window: Window) -> Sample:
    """The sample of a window of a whole image whose depth is unknown everywhere."""
    part = np.ascontiguousarray(image[window])
    unknown = np.zeros(part.shape[:2], bool)
    return Sample(part, unknown.astype(np.float32), unknown)


def ray_slopes(
    size: tuple[int, int], intrinsics: Float[np.ndarray, "4"]
) -> tuple[Float[np.ndarray, "W"], Float[np.ndarray, "H 1"]]:
    """x / z of the ray through each column, and y / z of that through each row, of a camera."""
    height, width = size
    fx, fy, cx, cy = intrinsics
    x = (np.arange(width) + 0.5 - cx) / fx
    y = (np.arange(height)[:, None] + 0.5 - cy) / fy
    return x, y


def toward_camera(
    normal: Float[np.ndarray, "H W 3"], intrinsics: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "H W 3"]:
    """The normals of a whole image, those that point away from the camera turned round."""
    x, y = ray_slopes(normal.shape[:2], intrinsics)
    away = normal[..., 0] * x + normal[..., 1] * y + normal[..., 2] > 0
    return np.where(away[..., None], -normal, normal)


def known_normals(
    normal: Float[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Unit normals, and 0 where they or the depth are unknown."""
    normal = np.asarray(normal, np.float32)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = np.isfinite(length) & (length > SHORTEST_NORMAL) & valid[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, normal / length, np.float32(0))


def open_normals(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
    """A .npy file of normals of an image of that size, mapped into memory."""
    normal = open_npy(path, channels=3)
    require(
        normal.shape[:2] == size,
        f"{path} has shape {normal.shape}, but its image has {size}. Normals must have the size of "
        "their image",
    )
    return normal


def find_files(folder: Path, pattern: str) -> list[Path]:
    """The files that match a pattern, in order; a user error if there are none."""
    files = find_paths(folder, pattern)
    if files:
        return files
    names = sorted(path.name for path in folder.iterdir())
    content = ", ".join(names[:3]) if names else "nothing"
    if len(names) > 3:
        content += f" and {len(names) - 3} more"
    raise UserError(f"{folder} has no files {pattern}. It holds {content}")
