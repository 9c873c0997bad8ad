"""DIODE."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.files import (
    DepthCamera,
    FileDataSet,
    ImageFiles,
    find_files,
    open_normals,
    toward_camera,
)
from urgt_jax.errors import require
from urgt_jax.images.depth_formats import open_npy

# The camera of all images, from the authors' devkit; the centre is that of 768 x 1024 pixels.
INTRINSICS = np.array([886.81, 927.06, 512.0, 384.0])
PARTS = {
    "val": "val/*",
    "val_indoors": "val/indoors",
    "val_outdoors": "val/outdoor",
    "train": "train/*",
}


class Diode(FileDataSet):
    """DIODE (Vasiljevic et al., 2019), with its normals where that archive is unpacked too."""

    splits = tuple(PARTS)
    default_split = "val"
    train_split = "train"

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, f"{PARTS[self.split]}/scene_*/scan_*/*.png"):
            normal = image.with_name(f"{image.stem}_normal.npy")
            images.append(
                ImageFiles(
                    name=image.stem,
                    image=image,
                    depth=image.with_name(f"{image.stem}_depth.npy"),
                    mask=image.with_name(f"{image.stem}_depth_mask.npy"),
                    normal=normal if normal.is_file() else None,
                    scene=image.parents[1].name,
                )
            )
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        depth = open_npy(files.depth, channels=1)[..., 0]
        mask = open_npy(files.mask)
        require(
            mask.shape == depth.shape,
            f"{files.mask} has shape {mask.shape}, but the depth has {depth.shape}. Download both "
            "again",
        )
        return np.where(mask > 0, depth, 0)

    def read_normal(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        # y points up and z backward in the files, and some normals point away from the camera.
        normal = open_normals(files.normal, size) * np.float32([1, -1, -1])
        return toward_camera(normal, INTRINSICS)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        return DepthCamera(INTRINSICS)
