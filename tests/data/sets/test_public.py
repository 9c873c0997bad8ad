"""Data sets with measured depth: miniatures of each, read back exactly, and what is refused."""

import io
import json
import os
import pickle
import struct
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from urgt_jax.data.sets.public import DATA_SETS
from urgt_jax.errors import UserError
from urgt_jax.images.depth_formats import open_pfm, read_png16

SIZE = (12, 17)
WINDOW = (slice(3, 11), slice(5, 16))


class Mini(NamedTuple):
    """A data set in miniature, and what reading its first picture must give."""

    source: object
    name: str
    depth: np.ndarray  # float64, metres, 0 where unknown
    intrinsics: list | None
    stereo: float | None = None


def _picture(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _numbers(size=SIZE, low=1.0, high=50.0):
    """Random float32 numbers, some of them unknown, and where they are known."""
    rng = np.random.default_rng(1)
    known = rng.random(size) < 0.8
    return rng.uniform(low, high, size).astype(np.float32), known


def _write_pfm(path, values, order="<"):
    """Row by row from the bottom, number by number."""
    height, width = values.shape
    head = f"Pf\n{width} {height}\n{'-1' if order == '<' else '1'}.0\n".encode()
    rows = [struct.pack(f"{order}{width}f", *row) for row in values[::-1]]
    path.write_bytes(head + b"".join(rows))


def _write_png16(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)


def _folder(path, end=".npy"):
    _picture(path / "kitchen.png")
    values, known = _numbers()
    file, depth = path / f"kitchen_depth{end}", np.where(known, values, 0)
    told = {"intrinsics": [20.0, 21.0, 8.5, 6.0], "baseline": 0.2}
    if end == ".npy":
        np.save(file, np.where(known, values, np.nan))
    elif end == ".pfm":
        _write_pfm(file, np.where(known, values, -1))
    else:
        told["depth_scale"] = 500
        _write_png16(file, 500 * depth)
        depth = (500 * depth).astype(np.uint16) / np.float32(500)
    (path / "dataset.json").write_text(json.dumps(told))
    return Mini(DATA_SETS["folder"](path, ""), "kitchen", depth, told["intrinsics"], 4.0)


def _middlebury(path):
    _picture(path / "Piano" / "im0.png")
    values, known = _numbers()
    _write_pfm(path / "Piano" / "disp0.pfm", np.where(known, values, np.inf))
    (path / "Piano" / "calib.txt").write_text(
        "cam0=[100.5 0 8.25; 0 101 5.75; 0 0 1]\ncam1=[100.5 0 9; 0 101 5.75; 0 0 1]\n"
        "doffs=2.5\nbaseline=200\nwidth=17\nheight=12\nndisp=60\n"
    )
    depth = np.where(known, 100.5 * 0.2 / (values.astype(float) + 2.5), 0)
    camera = [100.5, 101, 8.75, 6.25]
    return Mini(DATA_SETS["middlebury2014"](path, ""), "Piano", depth, camera, 20.1)


def _booster(path):
    scene = path / "train/balanced/Bathroom"
    for number in (0, 1):
        _picture(scene / f"camera_00/im{number}.png", seed=number)
    values, known = _numbers()
    np.save(scene / "disp_00.npy", np.where(known, values, 0))
    (scene / "calib_00-02.xml").write_text(
        '<?xml version="1.0"?>\n<opencv_storage>\n<mtxL type_id="opencv-matrix"><rows>3</rows>'
        "<cols>3</cols><dt>d</dt><data>\n 90. 0. 7. 0. 90. 5. 0. 0. 1.</data></mtxL>\n"
        '<proj_matL type_id="opencv-matrix"><rows>3</rows><cols>4</cols><dt>d</dt><data>\n'
        " 80. 0. 7.5 0. 0. 81.\n 5.5 0. 0. 0. 1. 0.</data></proj_matL>\n"
        "<baselineLR>5.0e+01</baselineLR>\n<date>monday</date>\n</opencv_storage>\n"
    )
    depth = np.where(known, 80 * 0.05 / values.astype(float), 0)
    return Mini(DATA_SETS["booster"](path, ""), "Bathroom_im0", depth, [80, 81, 8, 6], 4.0)


def _eth3d(path):
    scene = path / "pipes"
    _picture(scene / "images/dslr_images/DSC_0634.JPG")
    values, known = _numbers()
    truth = scene / "ground_truth_depth/dslr_images/DSC_0634.JPG"
    truth.parent.mkdir(parents=True)
    truth.write_bytes(struct.pack("<204f", *np.where(known, values, np.inf).ravel()))
    (scene / "dslr_calibration_jpg").mkdir()
    (scene / "dslr_calibration_jpg/cameras.txt").write_text(
        "# Camera list\n0 THIN_PRISM_FISHEYE 17 12 3411 3410 9 8 0.2 0 0 0 0 0 0 0\n"
        "1 THIN_PRISM_FISHEYE 17 12 34.5 35.5 8.5 6.5 0.2 0.4 0 0 0 0 0 0\n"
    )
    (scene / "dslr_calibration_jpg/images.txt").write_text(
        "# Image list\n7 1 0 0 0 1 2 3 0 dslr_images/DSC_0633.JPG\n1.5 2.5 -1\n"
        "8 1 0 0 0 1 2 3 1 dslr_images/DSC_0634.JPG\n\n"
    )
    depth, camera = np.where(known, values, 0), [34.5, 35.5, 8.5, 6.5]
    return Mini(DATA_SETS["eth3d"](path, ""), "pipes_DSC_0634", depth, camera)


def _kitti(path):
    root, drive = path / "depth_selection/val_selection_cropped", "2011_09_26_drive_0002_sync"
    _picture(root / f"image/{drive}_image_0000000008_image_02.png")
    values, known = _numbers()
    stored = np.where(known, 256 * values, 0).astype(np.uint16)
    _write_png16(
        root / f"groundtruth_depth/{drive}_groundtruth_depth_0000000008_image_02.png", stored
    )
    camera = root / f"intrinsics/{drive}_image_0000000008_image_02.txt"
    camera.parent.mkdir()
    camera.write_text("72.1 0.0 9.0 0.0 72.2 5.0 0.0 0.0 1.0\n")
    name = f"{drive}_image_0000000008_image_02"
    return Mini(DATA_SETS["kitti"](path, ""), name, stored / 256, [72.1, 72.2, 9.5, 5.5])


def _kitti_eigen(path):
    date, drive, size = "2011_09_26", "2011_09_26_drive_0002_sync", (30, 50)
    picture = f"{date}/{drive}/image_02/data/0000000069.png"
    truth = f"{drive}/proj_depth/groundtruth/image_02/0000000069.png"
    _picture(path / picture, size)
    values, known = _numbers(size)
    stored = np.where(known, 256 * values, 0).astype(np.uint16)
    _write_png16(path / "val" / truth, stored)
    (path / date / "calib_cam_to_cam.txt").write_text(
        "calib_time: 09-Jan-2012 13:57:47\n"
        "P_rect_02: 70 0 24.5 4.5 0 71 14.5 0.2 0 0 1 0.01\n"
        "P_rect_03: 70 0 24.5 -33.0 0 71 14.5 2.2 0 0 1 0.01\n"
    )
    (path / "eigen_test_files_with_gt.txt").write_text(
        f"{date}/{drive}/image_02/data/0000000054.png None 721.5377\n{picture} {truth} 721.5377\n"
    )
    depth = np.zeros(size)  # the crop in pixels: 12.2 to 29.8 of 30, 1.8 to 48.2 of 50
    depth[12:29, 1:48] = stored[12:29, 1:48] / 256
    name = f"{drive}_0000000069"
    return Mini(DATA_SETS["kitti"](path, "eigen"), name, depth, [70, 71, 25, 15], 37.5)


def _prepare_nyu(path, kept="array_record"):
    """A TFDS folder of two pictures, with the features of nyu_depth_v2."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, VERSION = "nyu_depth_v2", tfds.core.Version("0.0.1")

        def _info(self):
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(480, 640, 3)),
                "depth": tfds.features.Tensor(shape=(480, 640), dtype=np.float16),
            })  # fmt: skip
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"validation": self._generate_examples()}

        def _generate_examples(self):
            values, known = _numbers((480, 640), 0.5, 9)
            for key, tone in (("a", 3), ("b", 200)):
                file = io.BytesIO()
                Image.new("RGB", (640, 480), (tone, 4, 5)).save(file, "PNG")
                depth = np.where(known, values, 0).astype(np.float16)
                yield key, {"image": file.getvalue(), "depth": depth}

    Builder(data_dir=path, file_format=kept).download_and_prepare()


def _nyu(path):
    _prepare_nyu(path)
    values, known = _numbers((480, 640), 0.5, 9)
    depth = np.zeros((480, 640), np.float16)
    depth[45:471, 41:601] = np.where(known, values, 0)[45:471, 41:601]
    camera = [518.86, 519.47, 326.08, 254.24]
    return Mini(DATA_SETS["nyu_depth_v2"](path, ""), "validation_00000", depth, camera)


MINIS = {
    "npy": _folder, "pfm": lambda path: _folder(path, ".pfm"),
    "png": lambda path: _folder(path, ".png"), "middlebury2014": _middlebury, "booster": _booster,
    "eth3d": _eth3d, "kitti": _kitti, "eigen": _kitti_eigen, "nyu": _nyu,
}  # fmt: skip


@pytest.fixture(scope="module", params=MINIS.values(), ids=MINIS)
def mini(request, tmp_path_factory):
    """Each data set in miniature."""
    return request.param(tmp_path_factory.mktemp("mini"))


def test_a_picture_comes_back_exactly(mini):
    found = mini.source.read(0)
    exact = dict(rtol=0 if mini.stereo is None or mini.name == "kitchen" else 2e-7)
    np.testing.assert_allclose(found.depth, mini.depth, **exact)
    np.testing.assert_array_equal(found.valid, mini.depth > 0)
    assert found.depth.dtype == np.float32 and found.valid.dtype == bool
    assert found.image.dtype == np.uint8 and found.image.shape == (*mini.depth.shape, 3)
    assert mini.source.size(0) == mini.depth.shape and mini.source.name(0) == mini.name
    np.testing.assert_allclose(found.intrinsics, mini.intrinsics, rtol=1e-6)
    assert found.intrinsics.dtype == np.float32
    assert found.stereo == pytest.approx(mini.stereo) and found.normal is None


def test_a_window_is_a_crop_of_the_whole(mini):
    whole, part = mini.source.read(0), mini.source.read(0, WINDOW)
    for name in ("image", "depth", "valid"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[WINDOW])
    np.testing.assert_allclose(part.intrinsics, whole.intrinsics - [0, 0, 5, 3], rtol=1e-6)
    assert part.stereo == whole.stereo


def test_sources_travel_to_workers(mini):
    again = pickle.loads(pickle.dumps(mini.source))
    np.testing.assert_array_equal(again.read(0).depth, mini.source.read(0).depth)
    assert [again.name(i) for i in range(len(again))] == [
        mini.source.name(i) for i in range(len(mini.source))
    ]


def test_every_picture_of_a_scene_counts(tmp_path):
    source = _booster(tmp_path).source
    assert [source.name(i) for i in range(len(source))] == ["Bathroom_im0", "Bathroom_im1"]
    one, two = source.read(0), source.read(1)
    assert (one.image != two.image).any() and (one.depth == two.depth).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_of_either_byte_order(tmp_path, order):
    values, _ = _numbers()
    _write_pfm(tmp_path / "a.pfm", values, order)
    np.testing.assert_array_equal(open_pfm(tmp_path / "a.pfm"), values)


def test_png_keeps_all_sixteen_bits(tmp_path):
    values = np.arange(65536).reshape(256, 256)
    _write_png16(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_png16(tmp_path / "a.png"), values)


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_size_is_that_of_the_upright_picture(tmp_path, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    np.save(tmp_path / "a_depth.npy", np.ones((10, 20) if turned < 5 else (20, 10), np.float32))
    source = DATA_SETS["folder"](tmp_path, "")
    assert source.size(0) == source.read(0).depth.shape == source.read(0).image.shape[:2]


def test_a_folder_tells_cameras_for_all_or_for_one(tmp_path):
    for name in ("a", "b", "c"):
        _picture(tmp_path / f"{name}.png")
        np.save(tmp_path / f"{name}_depth.npy", np.ones(SIZE, np.float16))
    (tmp_path / "dataset.json").write_text('{"intrinsics": [1, 2, 3, 4], "source": "a note"}')
    (tmp_path / "b.json").write_text('{"fx": 5, "fy": 6, "cx": 7, "cy": 8, "baseline": 0.5}')
    source = DATA_SETS["folder"](tmp_path, "")
    found = [source.read(i) for i in range(3)]
    assert [list(x.intrinsics) for x in found] == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]
    assert [x.stereo for x in found] == [None, 2.5, None]
    (tmp_path / "dataset.json").unlink()
    assert DATA_SETS["folder"](tmp_path, "").read(0).intrinsics is None


def test_a_window_may_be_unknown_where_the_picture_is_not(tmp_path):
    _picture(tmp_path / "a.png")
    depth = np.full(SIZE, np.nan)
    depth[0, 0] = 2
    np.save(tmp_path / "a_depth.npy", depth)
    source = DATA_SETS["folder"](tmp_path, "")
    assert source.read(0).valid.sum() == 1 and not source.read(0, WINDOW).valid.any()


def _refused(layout, path, *words, split=""):
    """Opening and reading tells the words in one line."""
    with pytest.raises(UserError) as caught:
        DATA_SETS[layout](path, split).read(0)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message and len(message) < 400 + 2 * len(str(path))


@pytest.mark.parametrize("layout", DATA_SETS)
def test_a_wrong_folder_is_told_what_was_looked_for(tmp_path, layout):
    looked = {"folder": "no picture", "middlebury2014": "*/im0.png",
              "booster": "train/balanced/*/camera_00", "eth3d": "*/images/dslr_images/*.JPG",
              "kitti": "val_selection_cropped/image/*.png",
              "nyu_depth_v2": "nyu_depth_v2/*/dataset_info.json"}  # fmt: skip
    _refused(layout, tmp_path / "gone", str(tmp_path / "gone"))
    _refused(layout, tmp_path, str(tmp_path), looked[layout])
    (tmp_path / "notes.txt").touch()
    _refused(layout, tmp_path, looked[layout])


@pytest.mark.parametrize("layout, write", [
    ("folder", _folder), ("middlebury2014", _middlebury), ("booster", _booster), ("eth3d", _eth3d),
    ("kitti", _kitti), ("nyu_depth_v2", _nyu),
])  # fmt: skip
def test_a_split_that_is_not_there_is_refused(tmp_path, layout, write):
    write(tmp_path)
    _refused(layout, tmp_path, "split", "tests", split="tests")


def _npy(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def _png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


GOOD_NPY, GOOD_PNG = _npy(np.ones(SIZE)), _png(np.ones(SIZE, np.uint16))
ARCHIVE = io.BytesIO()
np.savez(ARCHIVE, np.ones(SIZE))
PFM = b"Pf\n17 12\n-1\n" + np.ones(SIZE, "<f4").tobytes()
BAD_DEPTH = {
    "empty npy": (".npy", b"", "empty"),
    "truncated npy": (".npy", GOOD_NPY[:-9], "cannot be read"),
    "npy that is none": (".npy", b"depth", "no .npy file"),
    "pickled npy": (".npy", _npy(np.array([None])), "cannot be read"),
    "archive": (".npy", ARCHIVE.getvalue(), "no .npy file"),
    "whole numbers": (".npy", _npy(np.ones(SIZE, int)), "float32"),
    "other size": (".npy", _npy(np.ones((12, 18))), "own size"),
    "three axes": (".npy", _npy(np.ones((12, 17, 1))), "own size"),
    "all unknown": (".npy", _npy(np.full(SIZE, np.nan)), "no pixel of known depth"),
    "infinitely far": (".npy", _npy(np.full(SIZE, np.inf)), "no pixel of known depth"),
    "behind the camera": (".npy", _npy(np.full(SIZE, -1.0)), "no pixel of known depth"),
    "empty pfm": (".pfm", b"", "empty"),
    "truncated pfm": (".pfm", PFM[:-1], "815 bytes"),
    "pfm with a header only": (".pfm", PFM[:12], "0 bytes"),
    "pfm too long": (".pfm", PFM + b"0", "817 bytes"),
    "huge pfm": (".pfm", PFM.replace(b"17 12", b"99999999999 99999999999"), "bytes"),
    "pfm of another size": (".pfm", PFM.replace(b"17 12", b"12 17"), "own size"),
    "pfm in colour": (".pfm", PFM.replace(b"Pf", b"PF"), "one channel"),
    "pfm that is none": (".pfm", GOOD_PNG, "no PFM"),
    "pfm without a scale": (".pfm", PFM.replace(b"-1\n", b"0.0\n"), "scale"),
    "pfm with a word as scale": (".pfm", PFM.replace(b"-1\n", b"1-1\n"), "scale"),
    "empty png": (".png", b"", "empty"),
    "truncated png": (".png", GOOD_PNG[:-30], "cannot be read"),
    "png that is none": (".png", PFM, "cannot be read"),
    "eight bits": (".png", _png(np.ones(SIZE, np.uint8)), "16-bit"),
    "colours": (".png", _png(np.ones((*SIZE, 3), np.uint8)), "16-bit"),
    "png of another size": (".png", _png(np.ones((9, 9), np.uint16)), "own size"),
}


@pytest.mark.parametrize("kind", BAD_DEPTH)
def test_damaged_depth_is_refused_in_one_line(tmp_path, kind):
    end, content, word = BAD_DEPTH[kind]
    mini = _folder(tmp_path, end)
    file = tmp_path / f"{mini.name}_depth{end}"
    file.write_bytes(content)
    _refused("folder", tmp_path, str(file), word)


@pytest.mark.parametrize("content, word", [
    ("", "empty"), ("{", "cannot be read"), ("[1]", "one JSON object"), ("\xff", "cannot be read"),
    ('{"depth_scal": 2}', "depth_scal is unknown"), ('{"depth_scale": "1000"}', "depth_scale"),
    ('{"depth_scale": 0}', "above 0"), ('{"intrinsics": [1, 2, 3]}', "[fx, fy, cx, cy]"),
    ('{"intrinsics": [0, 2, 3, 4]}', "intrinsics"), ('{"intrinsics": {"fx": 1}}', "intrinsics"),
    ('{"intrinsics": [1, 2, 3, NaN]}', "intrinsics"), ('{"fx": 1, "fy": 2}', "belong together"),
    ('{"baseline": -1}', "above 0"), ('{"baseline": 1}', "no intrinsics"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["dataset.json", "a.json"])
def test_a_wrong_word_about_cameras_is_refused(tmp_path, name, content, word):
    _picture(tmp_path / "a.png")
    np.save(tmp_path / "a_depth.npy", np.ones(SIZE))
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    _refused("folder", tmp_path, word, str(tmp_path / ("a.png" if "no in" in word else name)))


def test_a_folder_needs_one_depth_for_each_picture(tmp_path):
    _folder(tmp_path, ".png")
    (tmp_path / "dataset.json").unlink()
    _refused("folder", tmp_path, "depth_scale", "dataset.json")
    np.save(tmp_path / "kitchen_depth.npy", np.ones(SIZE))
    _refused("folder", tmp_path, "several depth maps", "kitchen_depth.npy, kitchen_depth.png")
    (tmp_path / "kitchen_depth.png").unlink()
    _picture(tmp_path / "kitchen.jpg")
    _refused("folder", tmp_path, "two pictures", "kitchen")
    os.rename(tmp_path / "kitchen.jpg", tmp_path / "hall.jpg")
    _refused("folder", tmp_path, "no depth map", "hall.jpg", "hall_depth.npy")


def _swap(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


BAD_FILES = {
    "no disparity": (_middlebury, "Piano/disp0.pfm", os.remove, "unpack"),
    "no calibration": (_middlebury, "Piano/calib.txt", os.remove, "unpack"),
    "calibration of words": (
        _middlebury, "Piano/calib.txt", lambda file: file.write_text("notes: no\n"), "cam0"),
    "no baseline": (_middlebury, "Piano/calib.txt", _swap("baseline", "base"), "baseline"),
    "baseline 0": (_middlebury, "Piano/calib.txt", _swap("=200", "=0"), "above 0"),
    "no focal length": (_middlebury, "Piano/calib.txt", _swap("[100.5", "[0"), "cam0"),
    "NaN in a camera": (_middlebury, "Piano/calib.txt", _swap("8.25", "nan"), "8 finite"),
    "short matrix": (_middlebury, "Piano/calib.txt", _swap("; 0 0 1", ""), "6 finite"),
    "xml that is none": (
        _booster, "train/balanced/Bathroom/calib_00-02.xml", _swap("<data>", ""), "cannot be read"),
    "xml without a camera": (
        _booster, "train/balanced/Bathroom/calib_00-02.xml", _swap("proj_matL", "x"), "proj_matL"),
    "damaged picture": (
        _booster, "train/balanced/Bathroom/camera_00/im0.png",
        lambda file: file.write_bytes(b"no"), "picture"),
    "truncated raw": (
        _eth3d, "pipes/ground_truth_depth/dslr_images/DSC_0634.JPG",
        lambda file: file.write_bytes(file.read_bytes()[:-4]), "812 bytes"),
    "unlisted picture": (
        _eth3d, "pipes/dslr_calibration_jpg/images.txt", _swap("0634", "0635"), "does not list"),
    "no list of pictures": (_eth3d, "pipes/dslr_calibration_jpg/images.txt", os.remove, "no list"),
    "no such camera": (
        _eth3d, "pipes/dslr_calibration_jpg/cameras.txt", _swap("\n1 ", "\n2 "), "camera 1"),
    "other model": (
        _eth3d, "pipes/dslr_calibration_jpg/cameras.txt", _swap("THIN_PRISM", "FOV"), "PINHOLE"),
    "focal length 0": (
        _eth3d, "pipes/dslr_calibration_jpg/cameras.txt", _swap(" 34.5", " 0"), "above 0"),
    "cut off camera": (
        _eth3d, "pipes/dslr_calibration_jpg/cameras.txt", _swap(" 8.5 6.5 0.2 0.4 0 0 0 0 0 0", ""),
        "4 finite"),
    "camera of another size": (
        _eth3d, "pipes/dslr_calibration_jpg/cameras.txt", _swap("17 12", "12 17"), "12 x 17"),
    "short intrinsics": (
        _kitti, "depth_selection/val_selection_cropped/intrinsics/"
        "2011_09_26_drive_0002_sync_image_0000000008_image_02.txt", _swap(" 1.0", ""), "8 finite"),
    "half a list": (_kitti_eigen, "eigen_test_files_with_gt.txt", _swap(" ", ""), "DEPTH"),
    "no truth at all": (
        _kitti_eigen, "eigen_test_files_with_gt.txt",
        lambda file: file.write_text("a/b/image_02/data/1.png None 7\n"),
        "no picture with depth"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_damaged_data_set_is_refused_in_one_line(tmp_path, kind):
    write, file, spoil, word = BAD_FILES[kind]
    source = write(tmp_path).source
    spoil(tmp_path / file)
    layout = next(name for name, made in DATA_SETS.items() if isinstance(source, made))
    _refused(layout, tmp_path, str(tmp_path / file), word, split=source.split)


def test_nyu_must_be_prepared_as_array_record(tmp_path):
    _prepare_nyu(tmp_path)
    info = next(tmp_path.glob("nyu_depth_v2/*/dataset_info.json"))
    assert len(DATA_SETS["nyu_depth_v2"](info.parent, "")) == 2
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    _refused("nyu_depth_v2", tmp_path, "tfrecord", "--file_format=array_record")
    info.write_text("{")
    _refused("nyu_depth_v2", tmp_path, "cannot be read by TFDS")


@pytest.mark.parametrize("left", [0, 1000])
def test_a_truncated_nyu_is_refused(tmp_path, left):
    _prepare_nyu(tmp_path)
    shard = next(tmp_path.glob("nyu_depth_v2/*/*validation.array_record*"))
    shard.write_bytes(shard.read_bytes()[:left])
    _refused("nyu_depth_v2", tmp_path, str(tmp_path))
