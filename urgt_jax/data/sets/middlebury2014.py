"""Middlebury Stereo 2014."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES, read_calibration
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.images.depth_formats import open_pfm


class Middlebury2014(FileDataSet):
    """The left images of Middlebury Stereo 2014 (Scharstein et al., GCPR 2014)."""

    stores_disparity = True

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, "*/im0.png"):
            scene = image.parent
            images.append(ImageFiles(scene.name, image, scene / "disp0.pfm", scene / "calib.txt"))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_pfm(files.depth)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        calibration = read_calibration(files.camera)
        intrinsics = calibration.intrinsics("cam0")
        baseline = calibration.positive("baseline")  # millimetres
        offset = float(calibration.numbers("doffs", 1)[0])
        stereo = float(intrinsics[0] * baseline / 1000)
        return DepthCamera(intrinsics + TO_HALF_PIXEL_CENTRES, stereo, offset)
