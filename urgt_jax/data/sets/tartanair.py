"""TartanAir."""

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.cameras import TO_HALF_PIXEL_CENTRES
from urgt_jax.data.sets.files import DepthCamera, FileDataSet, ImageFiles, find_files
from urgt_jax.files import find_paths
from urgt_jax.images.depth_formats import open_npy

INTRINSICS = np.array([320.0, 320.0, 320.0, 240.0])  # of all images, 480 x 640 pixels
BASELINE = 0.25  # metres
FOLDERS = {"all": "*", "easy": "Easy", "hard": "Hard"}


class TartanAir(FileDataSet):
    """The left images of TartanAir (Wang et al., IROS 2020); its sky is 10 km away."""

    splits = tuple(FOLDERS)
    default_split = "all"
    train_split = "all"

    def list_images(self) -> list[ImageFiles]:
        images = []
        pattern = f"*/{FOLDERS[self.split]}/P*/image_left/*_left.png"
        # Some archives have a folder of the environment inside one of the same name.
        paths = find_paths(self.path, pattern) + find_paths(self.path, f"*/{pattern}")
        for image in sorted(paths) or find_files(self.path, pattern):  # which says what is missing
            sequence = image.parents[1]
            environment = sequence.parents[1].name
            depth = sequence / "depth_left" / f"{image.stem}_depth.npy"
            number = image.stem.removesuffix("_left")
            name = f"{environment}_{sequence.parent.name}_{sequence.name}_{number}"
            images.append(ImageFiles(name, image, depth, scene=environment))
        return images

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        return open_npy(files.depth)

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        stereo = float(INTRINSICS[0] * BASELINE)
        return DepthCamera(INTRINSICS + TO_HALF_PIXEL_CENTRES, stereo)
