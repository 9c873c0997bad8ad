"""Hypersim."""

import csv

import numpy as np
from jaxtyping import Float

from urgt_jax.data.sets.files import (
    DepthCamera,
    FileDataSet,
    ImageFiles,
    find_files,
    ray_slopes,
    toward_camera,
)
from urgt_jax.errors import UserError, require
from urgt_jax.files import read_text
from urgt_jax.images.depth_formats import read_hdf5, read_hdf5_map

SPLITS_FILE = "metadata_images_split_scene_v1.csv"
FOCAL = 886.81  # pixels, of images of 1024 pixels; a few scenes have other lenses
WIDTH = 1024


class Hypersim(FileDataSet):
    """Hypersim (Roberts et al., ICCV 2021): tone-mapped images with depth and normals.

    The file of splits is read if it is there: it leaves images out.
    """

    splits = ("test", "val", "train", "all")
    default_split = "test"
    train_split = "train"

    def list_images(self) -> list[ImageFiles]:
        wanted = self._listed()
        images = []
        pattern = "ai_*/images/scene_cam_*_final_preview/frame.*.tonemap.jpg"
        for image in find_files(self.path, pattern):
            scene = image.parents[2].name
            camera = image.parent.name.removeprefix("scene_").removesuffix("_final_preview")
            number = image.name.split(".")[1]
            if wanted is not None and (scene, camera, int(number)) not in wanted:
                continue
            geometry = image.parents[1] / f"scene_{camera}_geometry_hdf5"
            normal = geometry / f"frame.{number}.normal_cam.hdf5"
            images.append(
                ImageFiles(
                    name=f"{scene}_{camera}_{number}",
                    image=image,
                    depth=geometry / f"frame.{number}.depth_meters.hdf5",
                    normal=normal if normal.is_file() else None,
                    scene=scene,
                )
            )
        if not images:
            scene, camera, number = min(wanted)
            raise UserError(
                f"{self.path} has none of {len(wanted)} images of {self.split} in {SPLITS_FILE}, "
                f"such as {scene}/images/scene_{camera}_final_preview/frame.{number:04}.tonemap.jpg"
            )
        return images

    def _listed(self) -> set[tuple[str, str, int]] | None:
        """The images of the split; None for all of them."""
        if self.split == "all":
            return None
        path = self.path / SPLITS_FILE
        require(
            path.is_file(),
            f"{path} is missing. Take it from the authors' repository, or pass the split all",
        )
        rows = list(csv.DictReader(read_text(path, "list of splits").splitlines()))
        columns = ("scene_name", "camera_name", "frame_id", "split_partition_name")
        require(
            len(rows) > 0 and all(rows[0].get(name) for name in columns),
            f"{path} must have the columns {', '.join(columns)}. Download it again",
        )
        listed = set()
        for row in rows:
            if row["split_partition_name"] == self.split and (row["frame_id"] or "").isdigit():
                listed.add((row["scene_name"], row["camera_name"], int(row["frame_id"])))
        require(len(listed) > 0, f"{path} lists no image of {self.split}. Download it again")
        return listed

    def read_depth(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
        distance = read_hdf5_map(files.depth, "dataset")
        x, y = ray_slopes(distance.shape, intrinsics_of(distance.shape))
        # The files hold distances from the camera; depth is measured along the optical axis.
        return distance.astype(np.float64) / np.sqrt(x**2 + y**2 + 1)

    def read_normal(self, files: ImageFiles, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
        normal = read_hdf5(files.normal, "dataset")
        require(
            normal.shape == (*size, 3) and normal.dtype.kind == "f",
            f"{files.normal} has shape {normal.shape} and dtype {normal.dtype}, but the image has "
            f"{size}. Download it again",
        )
        # y points up and z backward in the files, and some normals point away from the camera.
        turned = normal.astype(np.float32) * np.float32([1, -1, -1])
        return toward_camera(turned, intrinsics_of(size))

    def read_camera(self, files: ImageFiles, size: tuple[int, int]) -> DepthCamera:
        return DepthCamera(intrinsics_of(size))


def intrinsics_of(size: tuple[int, int]) -> Float[np.ndarray, "4"]:
    """The camera of an image of that size."""
    focal = FOCAL * size[1] / WIDTH
    return np.array([focal, focal, size[1] / 2, size[0] / 2])
