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
from urgt_jax.data.sets import find_data_set
from urgt_jax.errors import UserError

SIZE = (12, 17)
NYU_SIZE = (480, 640)


class Miniature(NamedTuple):
    """A data set, and what its first image must be read as."""

    data_set: Source
    name: str
    depth: np.ndarray  # float64, metres, 0 where unknown
    intrinsics: list[float] | None
    stereo: float | None = None
    normal: np.ndarray | None = None


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
    data_set = find_data_set("folder")(path)
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
    return Miniature(find_data_set("middlebury2014")(path), "Piano", depth, intrinsics, 20.1)


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
    return Miniature(find_data_set("booster")(path), "Bathroom_im0", depth, [80, 81, 8, 6], 4.0)


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
    return Miniature(find_data_set("eth3d")(path), "pipes_DSC_0634", depth, [34.5, 35.5, 8.5, 6.5])


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
    return Miniature(find_data_set("kitti")(path), name, stored / 256, [72.1, 72.2, 9.5, 5.5])


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
    data_set = find_data_set("kitti")(path, "eigen")
    return Miniature(data_set, f"{drive}_0000000069", depth, [70, 71, 25, 15], 37.5)


def prepare_nyu_depth_v2(path: Path) -> None:
    """A TFDS folder of two images, with the features of nyu_depth_v2."""
    import tensorflow_datasets as tfds

    from urgt_jax.data.unreal4k.prepare import LocalInfo

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "miniature"  # for the modules of a package, TFDS needs importlib_resources
        name = "nyu_depth_v2"
        VERSION = tfds.core.Version("0.0.1")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(*NYU_SIZE, 3)),
                "depth": tfds.features.Tensor(shape=NYU_SIZE, dtype=np.float16),
            }
            return LocalInfo(builder=self, features=tfds.features.FeaturesDict(features))

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
    return Miniature(find_data_set("nyu_depth_v2")(path), "validation_00000", depth, intrinsics)


def random_normals(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Random float32 unit vectors."""
    normal = np.random.default_rng(2).normal(size=(*size, 3))
    return (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)


def facing(normal: np.ndarray, known: np.ndarray, intrinsics: list[float]) -> np.ndarray:
    """Normals with y up and z backward in our axes, pointing towards the camera, pixel by pixel."""
    fx, fy, cx, cy = intrinsics
    result = np.zeros_like(normal)
    for y, x in zip(*np.nonzero(known), strict=True):
        turned = normal[y, x] * np.float32([1, -1, -1])
        ray = np.array([(x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, 1])
        result[y, x] = -turned if turned @ ray > 0 else turned
    return result


def write_diode(path: Path) -> Miniature:
    """DIODE's validation split, with normals."""
    folder = path / "val/indoors/scene_00019/scan_00183"
    name = "00019_00183_indoors_000_010"
    write_photo(folder / f"{name}.png")
    values, known = random_depth()
    np.save(folder / f"{name}_depth.npy", values[..., None])
    np.save(folder / f"{name}_depth_mask.npy", known.astype(np.float32))
    normal = random_normals()
    np.save(folder / f"{name}_normal.npy", normal)
    intrinsics = [886.81, 927.06, 512.0, 384.0]
    depth = np.where(known, values, 0)
    truth = facing(normal, known, intrinsics)
    return Miniature(find_data_set("diode")(path), name, depth, intrinsics, None, truth)


def write_ibims1(path: Path) -> Miniature:
    """iBims-1 with one image, which has a wall and a floor."""
    scipy_io = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    values, known = random_depth()
    wall = np.zeros(SIZE, np.uint8)
    wall[2:10, 3:9] = 1
    wall[0, 0] = 2  # too small to be scored
    floor = np.zeros(SIZE, np.uint8)
    floor[10:] = 1
    plane = np.zeros((1, 7))
    plane[0, 4:7] = (0.6, -0.8, 0.0)  # x right, y forward, z up
    floor_plane = np.zeros((1, 7))
    floor_plane[0, 4:7] = (0, 0, 1)
    data = {
        "rgb": rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8),
        "depth": np.where(known, values, 0).astype(np.float64),
        "edges": (rng.random(SIZE) < 0.1).astype(np.uint8),
        "calib": np.array([[20.0, 0, 0], [0, 21.0, 0], [9.5, 6.5, 1]]),
        "mask_invalid": np.ones(SIZE, np.uint8),
        "mask_transp": np.ones(SIZE, np.uint8),
        "mask_wall": wall,
        "mask_wall_paras": np.concatenate([plane, plane]),
        "mask_table": np.zeros(SIZE, np.uint8),
        "mask_table_paras": np.zeros((0, 0)),
        "mask_floor": floor,
        "mask_floor_paras": floor_plane,
    }
    data["mask_transp"][5, 5] = 0
    file = path / "ibims1_core_mat/corridor_01.mat"
    file.parent.mkdir(parents=True)
    scipy_io.savemat(file, {"data": data})
    depth = np.where(known, values, 0)
    depth[5, 5] = 0
    return Miniature(find_data_set("ibims1")(path), "corridor_01", depth, [20, 21, 9, 6])


def write_sintel(path: Path) -> Miniature:
    """One frame of MPI Sintel."""
    training = path / "training"
    write_photo(training / "final/alley_1/frame_0001.png")
    values, known = random_depth()
    depth = np.where(known, values, 0)
    for folder in ("depth", "camdata_left"):
        (training / folder / "alley_1").mkdir(parents=True)
    content = struct.pack("<fii204f", 202021.25, 17, 12, *depth.ravel())
    (training / "depth/alley_1/frame_0001.dpt").write_bytes(content)
    matrix = [20.0, 0, 8.0, 0, 21.0, 5.5, 0, 0, 1]
    content = struct.pack("<f21d", 202021.25, *matrix, *range(12))
    (training / "camdata_left/alley_1/frame_0001.cam").write_bytes(content)
    data_set = find_data_set("sintel")(path)
    return Miniature(data_set, "alley_1_frame_0001", depth, [20, 21, 8.5, 6])


def write_hdf5(path: Path, **arrays: np.ndarray) -> None:
    """An HDF5 file."""
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_spring(path: Path) -> Miniature:
    """The second frame of a scene of Spring."""
    scene = path / "spring/train/0001"
    write_photo(scene / "frame_left/frame_left_0002.png")
    values, known = random_depth()
    disparity = np.full((24, 34), 3, np.float32)
    disparity[::2, ::2] = np.where(known, values, np.nan)
    write_hdf5(scene / "disp1_left/disp1_left_0002.dsp5", disparity=disparity)
    (scene / "cam_data").mkdir()
    (scene / "cam_data/intrinsics.txt").write_text("1 2 3 4\n100.0 101.0 8.0 5.5\n")
    depth = np.where(known, 100 * 0.065 / values.astype(float), 0)
    data_set = find_data_set("spring")(path)
    return Miniature(data_set, "0001_0002", depth, [100, 101, 8.5, 6], 6.5)


def write_hypersim(path: Path) -> Miniature:
    """A scene of Hypersim with a test image and one that the split leaves out."""
    images = path / "ai_001_002/images"
    values, known = random_depth()
    distance = np.where(known, values, np.nan).astype(np.float16)
    normal = random_normals().astype(np.float16)
    geometry = images / "scene_cam_00_geometry_hdf5"
    for number in ("0003", "0004"):
        write_photo(images / f"scene_cam_00_final_preview/frame.{number}.tonemap.jpg")
        write_hdf5(geometry / f"frame.{number}.depth_meters.hdf5", dataset=distance)
        write_hdf5(geometry / f"frame.{number}.normal_cam.hdf5", dataset=normal)
    (path / "metadata_images_split_scene_v1.csv").write_text(
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,"
        "split_partition_name\nai_001_002,cam_00,4,True,,test\nai_001_002,cam_00,3,True,,train\n"
    )
    focal = 886.81 * 17 / 1024
    intrinsics = [focal, focal, 8.5, 6.0]
    depth = np.zeros(SIZE, np.float32)
    for y, x in zip(*np.nonzero(known), strict=True):
        ray = np.array([(x + 0.5 - 8.5) / focal, (y + 0.5 - 6) / focal, 1])
        depth[y, x] = float(distance[y, x]) / np.linalg.norm(ray)
    truth = facing(normal.astype(np.float32), known, intrinsics)
    data_set = find_data_set("hypersim")(path)
    return Miniature(data_set, "ai_001_002_cam_00_0004", depth, intrinsics, None, truth)


def write_tartanair(path: Path) -> Miniature:
    """An image of TartanAir."""
    sequence = path / "oldtown/Easy/P001"
    write_photo(sequence / "image_left/000003_left.png")
    values, known = random_depth()
    depth = np.where(known, values, 0)
    (sequence / "depth_left").mkdir()
    np.save(sequence / "depth_left/000003_left_depth.npy", depth)
    data_set = find_data_set("tartanair")(path)
    intrinsics = [320, 320, 320.5, 240.5]
    return Miniature(data_set, "oldtown_Easy_P001_000003", depth, intrinsics, 80.0)


def write_dsine_normals(path: Path, name: str, folder: str, number: str) -> Miniature:
    """An image of a set with normals only."""
    home = path / folder
    write_photo(home / f"{number}_img.png")
    coded = np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    coded[2:5, 4:9] = 0  # unknown
    Image.fromarray(coded).save(home / f"{number}_normal.png")
    np.save(home / f"{number}_intrins.npy", np.array([[20.0, 0, 8], [0, 21, 5.5], [0, 0, 1]]))
    normal = 1 - coded / np.float32(127.5)  # x left, y up, z backward
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = coded.any(-1, keepdims=True) & (length > 0.1)
    truth = np.where(known, normal / np.maximum(length, 1e-6), 0)
    data_set = find_data_set(name)(path)
    title = f"{home.name}_{number}"
    return Miniature(data_set, title, np.zeros(SIZE), [20, 21, 8.5, 6], None, truth)


def write_nyu_normals(path: Path) -> Miniature:
    """Normals of NYU Depth v2."""
    return write_dsine_normals(path, "nyu_normals", "nyuv2/test", "000000")


def write_scannet_normals(path: Path) -> Miniature:
    """Normals of ScanNet."""
    return write_dsine_normals(path, "scannet_normals", "scannet/scene0001_01", "000000")


def write_mattes(path: Path) -> Miniature:
    """An image of DIS-5K."""
    write_photo(path / "im/bench.jpg")
    (path / "gt").mkdir()
    matte = np.zeros(SIZE, np.uint8)
    matte[3:8, 4:12] = 255
    matte[8, 4:12] = 26  # just above a tenth
    matte[9, 4:12] = 25
    Image.fromarray(matte).save(path / "gt/bench.png")
    return Miniature(find_data_set("mattes")(path), "bench", np.zeros(SIZE), None)


def write_nyu_labeled(path: Path) -> Miniature:
    """The labelled images of NYU Depth v2: two, of which the second is for tests."""
    scipy_io = pytest.importorskip("scipy.io")
    values, known = random_depth(NYU_SIZE, 0.5, 9)
    raw = np.where(known, values, 0)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 640, 480), dtype=np.uint8)
    depths = np.stack([np.ones_like(raw.T), raw.T])
    filled = np.full_like(depths, 4)
    write_hdf5(path / "nyu_depth_v2_labeled.mat", images=images, rawDepths=depths, depths=filled)
    scipy_io.savemat(path / "splits.mat", {"testNdxs": np.array([[2]], np.uint16)})
    depth = np.zeros(NYU_SIZE, np.float32)
    depth[45:471, 41:601] = raw[45:471, 41:601]
    intrinsics = [518.86, 519.47, 326.08, 254.24]
    return Miniature(find_data_set("nyu_labeled")(path), "0002", depth, intrinsics)


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
    "nyu_labeled": write_nyu_labeled,
    "diode": write_diode,
    "ibims1": write_ibims1,
    "sintel": write_sintel,
    "spring": write_spring,
    "hypersim": write_hypersim,
    "tartanair": write_tartanair,
    "nyu_normals": write_nyu_normals,
    "scannet_normals": write_scannet_normals,
    "mattes": write_mattes,
}


def assert_rejected(name: str, path: Path, *words: str, split: str = "") -> None:
    """Opening the data set and reading an image must fail in one line with all these words."""
    with pytest.raises(UserError) as caught:
        find_data_set(name)(path, split).read(0)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message and len(message) < 400 + 2 * len(str(path))


def replace_text(path: Path, old: str, new: str) -> None:
    """Replaces a part of a text file, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
