"""KITTI depth prediction."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.samples import WHOLE, Window
from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES, read_calibration, read_matrix
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.errors import require
from urgt_jax.files import inside, read_words
from urgt_jax.images.depth_formats import read_png16

SELECTION = "val_selection_cropped"
EIGEN = "eigen"
EIGEN_LIST = "eigen_test_files_with_gt.txt"
# The crop of Garg et al. (ECCV 2016), from share to share of the height and of the width.
GARG_ROWS = (0.40810811, 0.99189189)
GARG_COLUMNS = (0.03594771, 0.96405229)


class Kitti(FileDataSet):
    """KITTI's depth prediction set (Uhrig et al., 3DV 2017): its 1000 images, or Eigen's split."""

    splits = (SELECTION, EIGEN)
    default_split = SELECTION
    usual_max_depth = 80.0

    def list_images(self) -> list[ImageFiles]:
        if self.split == EIGEN:
            return self._list_eigen()
        images = []
        for image in find_files(self.path, f"depth_selection/{SELECTION}/image/*.png"):
            root = image.parents[1]
            depth_name = image.name.replace("_image_", "_groundtruth_depth_", 1)
            depth = root / "groundtruth_depth" / depth_name
            camera = root / "intrinsics" / f"{image.stem}.txt"
            scene = image.stem.split("_image_")[0]
            images.append(ImageFiles(image.stem, image, depth, camera, scene=scene))
        return images

    def _list_eigen(self) -> list[ImageFiles]:
        """The images of Eigen's list that have depth: 652 of the 697."""
        images = []
        listed = self.path / EIGEN_LIST
        for words in read_words(listed, "list of images"):
            require(len(words) >= 2, f"{listed}: a line must be IMAGE DEPTH FOCAL")
            if words[1] == "None":
                continue
            image = inside(self.path, words[0])
            depth = inside(self.path / "train", words[1])
            if not depth.exists():
                depth = inside(self.path / "val", words[1])
            camera = image.parents[3] / "calib_cam_to_cam.txt"
            drive = words[1].split("/")[0]
            name = f"{drive}_{image.stem}"
            images.append(ImageFiles(name, image, depth, camera, scene=drive))
        require(len(images) > 0, f"{listed} lists no image with depth")
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return read_png16(files.depth) / np.float32(256)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        if self.split == SELECTION:
            calibration = read_matrix(files.camera, "the matrix")
            return DepthCamera(calibration.intrinsics("the matrix") + TO_HALF_PIXEL_CENTRES)
        calibration = read_calibration(files.camera)
        # The last column begins with the focal length times the camera's offset to the left.
        left = calibration.numbers("P_rect_02", 12)[3]
        right = calibration.numbers("P_rect_03", 12)[3]
        intrinsics = calibration.intrinsics("P_rect_02", columns=4)
        return DepthCamera(intrinsics + TO_HALF_PIXEL_CENTRES, float(left - right))

    def scored_window(self, size: tuple[int, int]) -> Window:
        if self.split == SELECTION:
            return WHOLE
        height, width = size
        rows = slice(int(height * GARG_ROWS[0]), int(height * GARG_ROWS[1]))
        columns = slice(int(width * GARG_COLUMNS[0]), int(width * GARG_COLUMNS[1]))
        return rows, columns
