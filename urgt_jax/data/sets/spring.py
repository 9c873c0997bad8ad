"""Spring."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES, Calibration
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.errors import require
from urgt_jax.files import read_words
from urgt_jax.images.depth_formats import read_hdf5_map

BASELINE = 0.065  # metres, of all scenes


class Spring(FileDataSet):
    """The left images of Spring's training scenes (Mehl et al., CVPR 2023)."""

    stores_disparity = True

    def list_images(self) -> list[ImageFiles]:
        images = []
        for image in find_files(self.path, "spring/train/*/frame_left/frame_left_*.png"):
            scene = image.parents[1]
            number = image.stem.removeprefix("frame_left_")
            depth = scene / "disp1_left" / f"disp1_left_{number}.dsp5"
            camera = scene / "cam_data" / "intrinsics.txt"
            name = f"{scene.name}_{number}"
            images.append(ImageFiles(name, image, depth, camera, scene=scene.name))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        disparity = read_hdf5_map(files.depth, "disparity")
        # The truth has two rows and columns for each of the image, in pixels of the image.
        expected = (2 * size[0], 2 * size[1])
        require(
            disparity.shape == expected,
            f"{files.depth} has shape {disparity.shape}, not {expected}, twice the size of its "
            "image. Download it again",
        )
        return disparity[::2, ::2].astype(np.float32)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        number = int(files.image.stem.rsplit("_", 1)[1])
        lines = read_words(files.camera, "list of intrinsics")
        require(
            0 < number <= len(lines),
            f"{files.camera} has {len(lines)} lines, but frame {number} needs a line of its "
            "own. Download it again",
        )
        values = {}
        try:
            values["fx, fy, cx, cy"] = [float(word) for word in lines[number - 1]]
        except ValueError:
            pass  # reported as missing below
        intrinsics = Calibration(files.camera, values).numbers("fx, fy, cx, cy", 4)
        require(intrinsics[:2].min() > 0, f"{files.camera}: focal lengths must be above 0")
        return DepthCamera(intrinsics + TO_HALF_PIXEL_CENTRES, float(intrinsics[0] * BASELINE))
