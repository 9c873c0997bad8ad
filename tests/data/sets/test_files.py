"""What all data sets of files share, tried on a miniature of each."""

import pickle

import numpy as np
import pytest
from etils.epath import Path
from helpers.public_sets import WRITERS, assert_rejected

WINDOW = (slice(3, 11), slice(5, 16))
# What an error says is missing in an empty folder.
EXPECTED_FILES = {
    "folder": "no image",
    "middlebury2014": "*/im0.png",
    "booster": "train/balanced/*/camera_00",
    "eth3d": "*/images/dslr_images/*.JPG",
    "kitti": "val_selection_cropped/image/*.png",
    "nyu_depth_v2": "nyu_depth_v2/*/dataset_info.json",
}


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
    np.testing.assert_allclose(sample.intrinsics, miniature.intrinsics, rtol=1e-6)
    assert sample.stereo == pytest.approx(miniature.stereo) and sample.normal is None
    assert sample.depth.dtype == sample.intrinsics.dtype == np.float32
    assert sample.valid.dtype == bool and sample.image.dtype == np.uint8
    assert sample.image.shape == (*miniature.depth.shape, 3)
    assert data_set.size(0) == miniature.depth.shape and data_set.name(0) == miniature.name


def test_data_set_reads_a_window_as_a_crop_of_the_image(miniature):
    whole = miniature.data_set.read(0)
    part = miniature.data_set.read(0, WINDOW)
    for name in ("image", "depth", "valid"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[WINDOW])
    np.testing.assert_allclose(part.intrinsics, whole.intrinsics - [0, 0, 5, 3], rtol=1e-6)
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
