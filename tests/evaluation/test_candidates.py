"""Saved predictions: which maps are read, and which are rejected."""

import numpy as np
import pytest

from urgt_jax.data.sources import PriorSample
from urgt_jax.errors import UserError
from urgt_jax.evaluation.candidates import SavedPredictions

SIZE = (40, 56)
DEPTH = np.full(SIZE, 2, np.float32)


@pytest.fixture
def sample():
    """An image without priors."""
    image = np.zeros((*SIZE, 3), np.uint8)
    valid = np.ones(SIZE, bool)
    return PriorSample(image, DEPTH, valid, None, None, None, None, None, None)


def read(folder, sample):
    return SavedPredictions(folder, 256.0)("view0", sample)["predicted"]


@pytest.mark.parametrize("file", ["view0_depth.npy", "view0.npy"])
def test_saved_predictions_read_depth(tmp_path, sample, file):
    np.save(tmp_path / file, DEPTH)
    candidate = read(tmp_path, sample)
    np.testing.assert_array_equal(candidate.depth, DEPTH)
    assert candidate.normal is None


def test_saved_predictions_read_normals_with_channels_first_or_last(tmp_path, sample):
    normal = np.random.default_rng(0).normal(size=(*SIZE, 3)).astype(np.float32)
    for values in (normal, normal.transpose(2, 0, 1)):
        np.save(tmp_path / "view0_normal.npy", values)
        np.testing.assert_array_equal(read(tmp_path, sample).normal, normal)


def write_truncated(path):
    np.save(path, DEPTH)
    path.write_bytes(path.read_bytes()[:200])


BROKEN = {
    "truncated": (write_truncated, "view0_depth.npy"),
    "empty file": (lambda path: path.write_bytes(b""), "view0_depth.npy"),
    "one row": (lambda path: np.save(path, DEPTH[0]), r"shape \(56,\)"),
    "no columns": (lambda path: np.save(path, DEPTH[:, :0]), r"shape \(40, 0\)"),
    "integers": (lambda path: np.save(path, DEPTH.astype(np.int16)), "dtype int16"),
    "transposed": (lambda path: np.save(path, DEPTH.T), "56 x 40 pixels, but the image has 40 x"),
    "negative": (lambda path: np.save(path, -DEPTH), "no value above 0"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_saved_predictions_reject_depth_that_is_broken(tmp_path, sample, kind):
    write, message = BROKEN[kind]
    write(tmp_path / "view0_depth.npy")
    with pytest.raises(UserError, match=message):
        read(tmp_path, sample)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(SIZE), r"normals must be float \[H, W, 3\]"),
        (np.full((*SIZE, 3), np.nan), "NaN or infinite normals"),
        (np.ones((56, 40, 3)), "normals of view0 .* 56 x 40 pixels"),
    ],
)
def test_saved_predictions_reject_normals_that_are_broken(tmp_path, sample, values, message):
    np.save(tmp_path / "view0_normal.npy", values.astype(np.float32))
    with pytest.raises(UserError, match=message):
        read(tmp_path, sample)


def test_saved_predictions_reject_an_image_without_maps(tmp_path, sample):
    np.save(tmp_path / "view1_depth.npy", DEPTH)
    with pytest.raises(UserError, match="no map of view0: no view0_depth.npy or .png"):
        read(tmp_path, sample)


def test_saved_predictions_need_a_folder_with_maps(tmp_path):
    with pytest.raises(UserError, match="no folder of predictions at"):
        SavedPredictions(tmp_path / "nowhere", 256.0)
    with pytest.raises(UserError, match="holds no .npy and no .png file"):
        SavedPredictions(tmp_path, 256.0)


def test_unused_files_are_those_of_no_image(tmp_path):
    for name in ("a_depth.npy", "a_normal.npy", "b.png", "c_depth.npy", "notes.txt"):
        (tmp_path / name).touch()
    predictions = SavedPredictions(tmp_path, 256.0)
    assert predictions.unused_files(["a", "b"]) == ["c_depth.npy"]
