"""What all data sets of files share, tried on a miniature of each."""

import pathlib
import pickle

import numpy as np
import pytest
from etils.epath import Path
from helpers.public_sets import WRITERS, assert_rejected, write_hdf5, write_photo
from PIL import Image

from urgt_jax.data.sets import find_data_set
from urgt_jax.errors import UserError

WINDOW = (slice(3, 11), slice(5, 16))
# What an error says is missing in an empty folder.
EXPECTED_FILES = {
    "folder": "no image",
    "middlebury2014": "*/im0.png",
    "booster": "train/balanced/*/camera_00",
    "eth3d": "*/images/dslr_images/*.JPG",
    "kitti": "val_selection_cropped/image/*.png",
    "nyu_depth_v2": "nyu_depth_v2/*/dataset_info.json",
    "nyu_labeled": "nyu_depth_v2_labeled.mat",
    "diode": "val/*/scene_*/scan_*",
    "ibims1": "*.mat",
    "sintel": "training/final/*/frame_*.png",
    "spring": "spring/train/*/frame_left",
    "hypersim": "metadata_images_split_scene_v1.csv",
    "tartanair": "P*/image_left/*_left.png",
    "nyu_normals": "nyuv2/test/*_img.png",
    "scannet_normals": "scannet/scene*/*_img.png",
    "mattes": "im and gt",
}
# Sets whose every file is damaged in turn; those before have tests of their own.
DAMAGED = tuple(EXPECTED_FILES)[6:]
OPTIONAL = ("_normal.npy", "normal_cam.hdf5", "0003.tonemap.jpg", "0003.depth_meters.hdf5")


@pytest.fixture(scope="module", params=WRITERS.values(), ids=WRITERS)
def miniature(request, tmp_path_factory):
    return request.param(Path(tmp_path_factory.mktemp("miniature")))


def test_data_set_reads_exactly_what_its_files_hold(miniature):
    data_set = miniature.data_set
    sample = data_set.read(0)
    from_disparity = miniature.stereo is not None and miniature.name != "kitchen"
    rtol = 2e-7 if from_disparity else 0
    np.testing.assert_allclose(sample.depth, miniature.depth, rtol=rtol)
    np.testing.assert_array_equal(sample.valid, miniature.depth > 0)
    if miniature.intrinsics is None:
        assert sample.intrinsics is None
    else:
        np.testing.assert_allclose(sample.intrinsics, miniature.intrinsics, rtol=1e-6)
        assert sample.intrinsics.dtype == np.float32
    assert sample.stereo == pytest.approx(miniature.stereo)
    if miniature.normal is None:
        assert sample.normal is None
    else:
        np.testing.assert_allclose(sample.normal, miniature.normal, atol=1e-3)
        assert sample.normal.dtype == np.float32
    assert sample.depth.dtype == np.float32
    assert sample.valid.dtype == bool and sample.image.dtype == np.uint8
    assert sample.image.shape == (*miniature.depth.shape, 3)
    assert data_set.size(0) == miniature.depth.shape and data_set.name(0) == miniature.name


def test_data_set_reads_a_window_as_a_crop_of_the_image(miniature):
    whole = miniature.data_set.read(0)
    part = miniature.data_set.read(0, WINDOW)
    for name in ("image", "depth", "valid"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[WINDOW])
    if whole.intrinsics is not None:
        np.testing.assert_allclose(part.intrinsics, whole.intrinsics - [0, 0, 5, 3], rtol=1e-6)
    if whole.normal is not None:
        np.testing.assert_array_equal(part.normal, whole.normal[WINDOW])
    assert part.stereo == whole.stereo


def test_data_set_can_be_pickled_for_worker_processes(miniature):
    data_set = miniature.data_set
    copy = pickle.loads(pickle.dumps(data_set))
    np.testing.assert_array_equal(copy.read(0).depth, data_set.read(0).depth)
    names = [data_set.name(i) for i in range(len(data_set))]
    assert [copy.name(i) for i in range(len(copy))] == names


@pytest.mark.parametrize("name", EXPECTED_FILES)
def test_data_set_names_the_files_that_a_folder_lacks(tmp_path, name):
    assert_rejected(name, tmp_path / "missing", str(tmp_path / "missing"))
    assert_rejected(name, tmp_path, str(tmp_path), EXPECTED_FILES[name])
    (tmp_path / "notes.txt").touch()
    assert_rejected(name, tmp_path, EXPECTED_FILES[name])


@pytest.mark.parametrize("name", EXPECTED_FILES)
def test_data_set_rejects_an_unknown_split(tmp_path, name):
    WRITERS[name](tmp_path)
    assert_rejected(name, tmp_path, "split", "tests", split="tests")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
@pytest.mark.parametrize("name", DAMAGED)
def test_data_set_names_a_damaged_file(tmp_path, name, damage):
    data_set = WRITERS[name](tmp_path).data_set
    paths = [path for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()]
    for path in paths:
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
        try:
            type(data_set)(tmp_path, getattr(data_set, "split", "")).read(0)
        except UserError as error:
            message = str(error)
            named = path.name in message or "has no files" in message
            assert named and "\n" not in message, (path, message)
            assert len(message) < 400 + 3 * len(str(path)), message
        else:
            assert path.name.endswith(OPTIONAL), path
        path.write_bytes(content)


def test_sets_of_normals_or_mattes_have_no_depth(tmp_path):
    sample = WRITERS["scannet_normals"](tmp_path / "normals").data_set.read(0)
    assert not sample.valid.any() and not sample.depth.any()
    sample = WRITERS["mattes"](tmp_path / "mattes").data_set.read(0)
    matte = np.zeros(sample.depth.shape, bool)
    matte[3:9, 4:12] = True
    np.testing.assert_array_equal(sample.annotations.matte, matte)


def test_ibims1_has_edges_and_large_planes(tmp_path):
    annotations = WRITERS["ibims1"](tmp_path).data_set.read(0).annotations
    assert annotations.edges.dtype == bool and annotations.edges.any()
    # The axes of the files are x right, y forward, z up.
    np.testing.assert_allclose(annotations.plane_normals, [[0.6, 0, -0.8], [0, -1, 0]], atol=1e-12)
    assert set(np.unique(annotations.planes)) == {0, 1, 2}
    assert annotations.planes[4, 4] in (0, 1) and annotations.planes[0, 0] == 0


def test_nyu_labeled_has_measured_and_filled_depth(tmp_path):
    path = WRITERS["nyu_labeled"](tmp_path).data_set.path
    filled = find_data_set("nyu_labeled")(path, "test_filled").read(0)
    assert (filled.depth[45:471, 41:601] == 4).all()


def test_hypersim_reads_the_images_of_a_split(tmp_path):
    path = WRITERS["hypersim"](tmp_path).data_set.path
    hypersim = find_data_set("hypersim")
    assert hypersim(path, "train").name(0) == "ai_001_002_cam_00_0003"
    assert len(hypersim(path, "all")) == 2
    with pytest.raises(UserError, match="lists no image of val"):
        hypersim(path, "val")


@pytest.mark.parametrize("name", ["diode", "sintel", "tartanair", "nyu_normals"])
def test_data_set_rejects_maps_of_another_size(tmp_path, name):
    WRITERS[name](tmp_path)
    for path in pathlib.Path(tmp_path).rglob("*"):
        if path.name.endswith(("_depth.npy", "_depth_mask.npy")):
            np.save(path, np.ones((9, 9, *np.load(path).shape[2:]), np.float32))
        if path.suffix == ".dpt":
            content = path.read_bytes()
            path.write_bytes(content[:4] + content[8:12] + content[4:8] + content[12:])
        if path.name.endswith("_normal.png"):
            write_photo(path, (9, 9))
    assert_rejected(name, tmp_path, "size of")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("calib", "text", "corridor_01.mat: calib must be an array of numbers"),
        ("calib", np.full((3, 3), np.nan), "calib .* 3 x 3 finite numbers"),
        ("mask_wall_paras", "text", "mask_wall_paras must be an array of numbers"),
        ("mask_wall_paras", None, "mask_wall_paras must be an array of numbers"),
        ("mask_wall_paras", np.full((1, 7), np.nan), "mask_wall_paras has no finite normal of pl"),
    ],
)
def test_ibims1_rejects_wrong_calibration_and_planes(tmp_path, name, value, message):
    scipy_io = pytest.importorskip("scipy.io")
    data_set = WRITERS["ibims1"](tmp_path).data_set
    file = str(data_set.images[0])
    data = scipy_io.loadmat(file, simplify_cells=True)["data"]
    data[name] = value
    if value is None:
        del data[name]
    scipy_io.savemat(file, {"data": data})
    with pytest.raises(UserError, match=message):
        data_set.read(0)


def test_mattes_rejects_a_matte_without_a_boundary(tmp_path):
    WRITERS["mattes"](tmp_path)
    for value in (0, 255):
        Image.fromarray(np.full((12, 17), value, np.uint8)).save(tmp_path / "gt/bench.png")
        assert_rejected("mattes", tmp_path, "bench.png", "no boundary")


def test_spring_rejects_disparity_that_is_not_twice_as_large_as_its_image(tmp_path):
    WRITERS["spring"](tmp_path)
    file = tmp_path / "spring/train/0001/disp1_left/disp1_left_0002.dsp5"
    write_hdf5(file, disparity=np.ones((24, 33), np.float32))
    assert_rejected("spring", tmp_path, "disp1_left_0002.dsp5", "(24, 33)", "(24, 34)")


def test_nyu_labeled_rejects_images_that_are_not_there(tmp_path):
    data_set = WRITERS["nyu_labeled"](tmp_path).data_set
    data_set.numbers[0] = 9
    with pytest.raises(UserError, match="labeled.mat has 2 parts of images, but part 9 is needed"):
        data_set.read(0)


def test_tartanair_lists_environments_of_both_forms(tmp_path):
    for environment in ("office", "soulcity/soulcity"):
        sequence = Path(tmp_path) / environment / "Easy/P001"
        for folder, name in (("image", "000003_left.png"), ("depth", "000003_left_depth.npy")):
            (sequence / f"{folder}_left").mkdir(parents=True)
            (sequence / f"{folder}_left" / name).touch()
    data_set = find_data_set("tartanair")(Path(tmp_path))
    assert [data_set.name(index) for index in range(len(data_set))] == [
        "office_Easy_P001_000003",
        "soulcity_Easy_P001_000003",
    ]


def test_mattes_of_two_images_with_one_name_are_rejected(tmp_path):
    write_photo(WRITERS["mattes"](Path(tmp_path)).data_set.path / "im/bench.png")
    with pytest.raises(UserError, match="im holds two images named bench. Rename one of them"):
        find_data_set("mattes")(Path(tmp_path))
