"""ETH3D."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import read_colmap_camera
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.errors import require
from urgt_jax.images.depth_formats import open_raw32


class Eth3d(FileDataSet):
    """The training scenes of ETH3D's high-resolution multi-view set (Schöps et al., CVPR 2017)."""

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, "*/images/dslr_images/*.JPG"):
            scene = image.parents[2]
            name = f"{scene.name}_{image.stem}"
            depth = scene / "ground_truth_depth/dslr_images" / image.name
            camera = scene / "dslr_calibration_jpg/cameras.txt"
            images.append(ImageFiles(name, image, depth, camera, scene=scene.name))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_raw32(files.depth, size)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        camera = read_colmap_camera(files.camera.parent, f"dslr_images/{files.image.name}")
        require(
            camera.size == size,
            f"{files.image} is {size[0]} x {size[1]} pixels, but {files.camera} says "
            f"{camera.size[0]} x {camera.size[1]}. Take images and cameras from one dslr_jpg "
            "archive",
        )
        return DepthCamera(camera.intrinsics)
