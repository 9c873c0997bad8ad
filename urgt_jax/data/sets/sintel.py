"""MPI Sintel."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES, read_sintel_camera
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.images.depth_formats import open_dpt


class Sintel(FileDataSet):
    """The training scenes of MPI Sintel (Butler et al., ECCV 2012) with their depth."""

    splits = ("final", "clean")
    default_split = "final"

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, f"training/{self.split}/*/frame_*.png"):
            scene = image.parent.name
            training = image.parents[2]
            depth = training / "depth" / scene / f"{image.stem}.dpt"
            camera = training / "camdata_left" / scene / f"{image.stem}.cam"
            name = f"{scene}_{image.stem}"
            images.append(ImageFiles(name, image, depth, camera, scene=scene))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_dpt(files.depth)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        calibration = read_sintel_camera(files.camera)
        return DepthCamera(calibration.intrinsics("K") + TO_HALF_PIXEL_CENTRES)
