"""Booster."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES, read_opencv_xml
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.images.depth_formats import open_npy


class Booster(FileDataSet):
    """The left images of Booster's training scenes (Zama Ramirez et al., CVPR 2022)."""

    stores_disparity = True

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, "train/balanced/*/camera_00/*.png"):
            scene = image.parents[1]
            name = f"{scene.name}_{image.stem}"
            depth = scene / "disp_00.npy"
            calibration = scene / "calib_00-02.xml"
            images.append(ImageFiles(name, image, depth, calibration, scene=scene.name))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_npy(files.depth)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        calibration = read_opencv_xml(files.camera)
        # The images are rectified: their camera is the projection, not mtxL, which took them.
        intrinsics = calibration.intrinsics("proj_matL", columns=4)
        baseline = calibration.positive("baselineLR")  # millimetres
        stereo = float(intrinsics[0] * baseline / 1000)
        return DepthCamera(intrinsics + TO_HALF_PIXEL_CENTRES, stereo)
