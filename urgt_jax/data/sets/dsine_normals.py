"""Normals of NYU Depth v2 and ScanNet, in the form in which DSINE's authors publish them."""

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from urgt_jax.data.samples import WHOLE, Sample, Window, crop_intrinsics
from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES
from urgt_jax.data.sets.files import check_choice, find_files, known_normals, sample_without_depth
from urgt_jax.errors import require
from urgt_jax.images.depth_formats import open_npy
from urgt_jax.images.files import image_size, read_image


class DsineNormals:
    """Images with normals and without depth: NAME_img.png, NAME_normal.png, NAME_intrins.npy."""

    default_split = ""
    train_split = ""
    pattern = ""  # of the images in the folder dsine_eval

    def __init__(self, path: Path, split: str = ""):
        self.path = path
        check_choice(path, split)
        self.images = find_files(path, self.pattern)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The folder and the number of the image."""
        image = self.images[index]
        return f"{image.parent.name}_{image.stem.removesuffix('_img')}"

    def scene(self, index: int) -> str:
        """The folder of the image."""
        return self.images[index].parent.name

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, pixels."""
        return image_size(self.images[index])

    def read(self, index: int, window: Window = WHOLE) -> Sample:
        """A window of an image; its depth is unknown everywhere."""
        path = self.images[index]
        image = read_image(path)
        size = image.shape[:2]
        stem = path.stem.removesuffix("_img")
        normal = self._read_normal(path.with_name(f"{stem}_normal.png"), size)
        camera = path.with_name(f"{stem}_intrins.npy")
        matrix = open_npy(camera)
        require(
            matrix.shape == (3, 3) and bool(np.isfinite(matrix).all()),
            f"{camera} has shape {matrix.shape}. It must hold a matrix of 3 x 3 finite numbers",
        )
        intrinsics = np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
        intrinsics = intrinsics + TO_HALF_PIXEL_CENTRES
        sample = sample_without_depth(image, window)
        return sample._replace(
            intrinsics=crop_intrinsics(intrinsics, window, size),
            normal=known_normals(normal[window], np.ones(sample.valid.shape, bool)),
        )

    def _read_normal(self, path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        """Normals towards the camera; 0 where the file is black."""
        coded = read_image(path)
        require(
            coded.shape[:2] == size,
            f"{path} has shape {coded.shape}, but its image has {size}. Normals must have the size "
            "of their image",
        )
        known = coded.any(-1, keepdims=True)
        require(bool(known.any()), f"{path} has no pixel with a normal. Download it again")
        # The files hold 255 (n + 1) / 2 with x left, y up, z backward.
        return np.where(known, 1 - coded.astype(np.float32) / 127.5, 0)


class NyuNormals(DsineNormals):
    """The 654 test images of NYU Depth v2 with normals (Ladicky et al., GeoNet)."""

    pattern = "nyuv2/test/*_img.png"


class ScanNetNormals(DsineNormals):
    """300 test images of ScanNet with normals (FrameNet)."""

    pattern = "scannet/scene*/*_img.png"
