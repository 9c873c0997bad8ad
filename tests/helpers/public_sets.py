"""Miniatures of the public data sets, in the form in which their authors publish them."""

import io
import json
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from etils.epath import Path
from PIL import Image

from urgt_jax.data.samples import Source
from urgt_jax.data.sets import DATA_SETS
from urgt_jax.errors import UserError

SIZE = (12, 17)
NYU_SIZE = (480, 640)


class Miniature(NamedTuple):
    """A data set, and what its first image must be read as."""

    data_set: Source
    name: str
    depth: np.ndarray  # float64, metres, 0 where unknown
    intrinsics: list[float]
    stereo: float | None = None


def write_photo(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    """An image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def random_depth(
    size: tuple[int, int] = SIZE, low: float = 1.0, high: float = 50.0
) -> tuple[np.ndarray, np.ndarray]:
    """Random float32 numbers, and where they are known."""
    rng = np.random.default_rng(1)
    known = rng.random(size) < 0.8
    return rng.uniform(low, high, size).astype(np.float32), known


def write_pfm(path: Path, values: np.ndarray, order: str = "<") -> None:
    """A grey PFM, row by row from the bottom, number by number."""
    height, width = values.shape
    scale = "-1.0" if order == "<" else "1.0"
    rows = [struct.pack(f"{order}{width}f", *row) for row in values[::-1]]
    path.write_bytes(f"Pf\n{width} {height}\n{scale}\n".encode() + b"".join(rows))


def write_png16(path: Path, values: np.ndarray) -> None:
    """A 16-bit grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def write_folder(path: Path, suffix: str = ".npy") -> Miniature:
    """A folder of one's own images."""
    write_photo(path / "kitchen.png")
    values, known = random_depth()
    file = path / f"kitchen_depth{suffix}"
    depth = np.where(known, values, 0)
    calibration = {"intrinsics": [20.0, 21.0, 8.5, 6.0], "baseline": 0.2}
    if suffix == ".npy":
        np.save(file, np.where(known, values, np.nan))
    elif suffix == ".pfm":
        write_pfm(file, np.where(known, values, -1))
    else:
        calibration["depth_scale"] = 500
        write_png16(file, 500 * depth)
        depth = (500 * depth).astype(np.uint16) / np.float32(500)
    (path / "dataset.json").write_text(json.dumps(calibration))
    data_set = DATA_SETS["folder"](path)
    return Miniature(data_set, "kitchen", depth, calibration["intrinsics"], 4.0)


def write_pfm_folder(path: Path) -> Miniature:
    """A folder of one's own images with PFM maps."""
    return write_folder(path, ".pfm")


def write_png_folder(path: Path) -> Miniature:
    """A folder of one's own images with 16-bit PNG maps."""
    return write_folder(path, ".png")


def write_middlebury2014(path: Path) -> Miniature:
    """Middlebury 2014."""
    write_photo(path / "Piano" / "im0.png")
    values, known = random_depth()
    write_pfm(path / "Piano" / "disp0.pfm", np.where(known, values, np.inf))
    (path / "Piano" / "calib.txt").write_text(
        "cam0=[100.5 0 8.25; 0 101 5.75; 0 0 1]\ncam1=[100.5 0 9; 0 101 5.75; 0 0 1]\n"
        "doffs=2.5\nbaseline=200\nwidth=17\nheight=12\nndisp=60\n"
    )
    depth = np.where(known, 100.5 * 0.2 / (values.astype(float) + 2.5), 0)
    intrinsics = [100.5, 101, 8.75, 6.25]
    return Miniature(DATA_SETS["middlebury2014"](path), "Piano", depth, intrinsics, 20.1)


def write_booster(path: Path) -> Miniature:
    """Booster, with two images of one scene."""
    scene = path / "train/balanced/Bathroom"
    for number in (0, 1):
        write_photo(scene / f"camera_00/im{number}.png", seed=number)
    values, known = random_depth()
    np.save(scene / "disp_00.npy", np.where(known, values, 0))
    (scene / "calib_00-02.xml").write_text(
        '<?xml version="1.0"?>\n<opencv_storage>\n<mtxL type_id="opencv-matrix"><rows>3</rows>'
        "<cols>3</cols><dt>d</dt><data>\n 90. 0. 7. 0. 90. 5. 0. 0. 1.</data></mtxL>\n"
        '<proj_matL type_id="opencv-matrix"><rows>3</rows><cols>4</cols><dt>d</dt><data>\n'
        " 80. 0. 7.5 0. 0. 81.\n 5.5 0. 0. 0. 1. 0.</data></proj_matL>\n"
        "<baselineLR>5.0e+01</baselineLR>\n<date>monday</date>\n</opencv_storage>\n"
    )
    depth = np.where(known, 80 * 0.05 / values.astype(float), 0)
    return Miniature(DATA_SETS["booster"](path), "Bathroom_im0", depth, [80, 81, 8, 6], 4.0)


def write_eth3d(path: Path) -> Miniature:
    """ETH3D, with one image that has depth of the two in the list."""
    scene = path / "pipes"
    write_photo(scene / "images/dslr_images/DSC_0634.JPG")
    values, known = random_depth()
    depth_file = scene / "ground_truth_depth/dslr_images/DSC_0634.JPG"
    depth_file.parent.mkdir(parents=True)
    depth_file.write_bytes(struct.pack("<204f", *np.where(known, values, np.inf).ravel()))
    (scene / "dslr_calibration_jpg").mkdir()
    (scene / "dslr_calibration_jpg/cameras.txt").write_text(
        "# Camera list\n0 THIN_PRISM_FISHEYE 17 12 3411 3410 9 8 0.2 0 0 0 0 0 0 0\n"
        "1 THIN_PRISM_FISHEYE 17 12 34.5 35.5 8.5 6.5 0.2 0.4 0 0 0 0 0 0\n"
    )
    (scene / "dslr_calibration_jpg/images.txt").write_text(
        "# Image list\n7 1 0 0 0 1 2 3 0 dslr_images/DSC_0633.JPG\n1.5 2.5 -1\n"
        "8 1 0 0 0 1 2 3 1 dslr_images/DSC_0634.JPG\n\n"
    )
    depth = np.where(known, values, 0)
    return Miniature(DATA_SETS["eth3d"](path), "pipes_DSC_0634", depth, [34.5, 35.5, 8.5, 6.5])


def write_kitti(path: Path) -> Miniature:
    """KITTI's selection of 1000 images, with one."""
    root = path / "depth_selection/val_selection_cropped"
    drive = "2011_09_26_drive_0002_sync"
    name = f"{drive}_image_0000000008_image_02"
    write_photo(root / f"image/{name}.png")
    values, known = random_depth()
    stored = np.where(known, 256 * values, 0).astype(np.uint16)
    depth_name = f"{drive}_groundtruth_depth_0000000008_image_02.png"
    write_png16(root / "groundtruth_depth" / depth_name, stored)
    intrinsics = root / f"intrinsics/{name}.txt"
    intrinsics.parent.mkdir()
    intrinsics.write_text("72.1 0.0 9.0 0.0 72.2 5.0 0.0 0.0 1.0\n")
    return Miniature(DATA_SETS["kitti"](path), name, stored / 256, [72.1, 72.2, 9.5, 5.5])


def write_kitti_eigen(path: Path) -> Miniature:
    """Eigen's split of KITTI, with one image that has depth of the two in the list."""
    date, drive, size = "2011_09_26", "2011_09_26_drive_0002_sync", (30, 50)
    image = f"{date}/{drive}/image_02/data/0000000069.png"
    depth_file = f"{drive}/proj_depth/groundtruth/image_02/0000000069.png"
    write_photo(path / image, size)
    values, known = random_depth(size)
    stored = np.where(known, 256 * values, 0).astype(np.uint16)
    write_png16(path / "val" / depth_file, stored)
    (path / date / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\n"
        "P_rect_02: 70 0 24.5 4.5 0 71 14.5 0.2 0 0 1 0.01\n"
        "P_rect_03: 70 0 24.5 -33.0 0 71 14.5 2.2 0 0 1 0.01\n"
    )
    (path / "eigen_test_files_with_gt.txt").write_text(
        f"{date}/{drive}/image_02/data/0000000054.png None 721.5377\n{image} {depth_file} 721.5\n"
    )
    depth = np.zeros(size)  # the crop in pixels: 12.2 to 29.8 of 30, 1.8 to 48.2 of 50
    depth[12:29, 1:48] = stored[12:29, 1:48] / 256
    data_set = DATA_SETS["kitti"](path, "eigen")
    return Miniature(data_set, f"{drive}_0000000069", depth, [70, 71, 25, 15], 37.5)


def prepare_nyu_depth_v2(path: Path) -> None:
    """A TFDS folder of two images, with the features of nyu_depth_v2."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "miniature"  # for the modules of a package, TFDS needs importlib_resources
        name = "nyu_depth_v2"
        VERSION = tfds.core.Version("0.0.1")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(*NYU_SIZE, 3)),
                "depth": tfds.features.Tensor(shape=NYU_SIZE, dtype=np.float16),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            values, known = random_depth(NYU_SIZE, 0.5, 9)
            depth = np.where(known, values, 0).astype(np.float16)
            for key, red in (("a", 3), ("b", 200)):
                file = io.BytesIO()
                Image.new("RGB", NYU_SIZE[::-1], (red, 4, 5)).save(file, "PNG")
                yield key, {"image": file.getvalue(), "depth": depth}

    Builder(data_dir=path, file_format="array_record").download_and_prepare()


def write_nyu_depth_v2(path: Path) -> Miniature:
    """NYU Depth v2."""
    prepare_nyu_depth_v2(path)
    values, known = random_depth(NYU_SIZE, 0.5, 9)
    depth = np.zeros(NYU_SIZE, np.float16)
    depth[45:471, 41:601] = np.where(known, values, 0)[45:471, 41:601]
    intrinsics = [518.86, 519.47, 326.08, 254.24]
    return Miniature(DATA_SETS["nyu_depth_v2"](path), "validation_00000", depth, intrinsics)


WRITERS: dict[str, Callable[[Path], Miniature]] = {
    "folder": write_folder,
    "folder_pfm": write_pfm_folder,
    "folder_png": write_png_folder,
    "middlebury2014": write_middlebury2014,
    "booster": write_booster,
    "eth3d": write_eth3d,
    "kitti": write_kitti,
    "kitti_eigen": write_kitti_eigen,
    "nyu_depth_v2": write_nyu_depth_v2,
}


def assert_rejected(name: str, path: Path, *words: str, split: str = "") -> None:
    """Opening the data set and reading an image must fail in one line with all these words."""
    with pytest.raises(UserError) as caught:
        DATA_SETS[name](path, split).read(0)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message and len(message) < 400 + 2 * len(str(path))


def replace_text(path: Path, old: str, new: str) -> None:
    """Replaces a part of a text file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
