"""Sources of images with coarse maps: the scenes, and rules about splits."""

import numpy as np
import pytest
from helpers.public_sets import WRITERS
from PIL import Image

from urgt_jax.config import Config, Data
from urgt_jax.config_files import with_changes
from urgt_jax.data.samples import WHOLE, crop_intrinsics, valid_depth
from urgt_jax.data.sources import (
    DataSetSource,
    SceneSource,
    check_depth_range,
    default_split,
    open_prior_source,
    open_source,
    open_training_source,
    priors_folder,
    trains_on_scored_images,
)
from urgt_jax.errors import UserError


def test_valid_depth_is_strictly_inside_the_range():
    depth = np.array([0, 1e-3, 1, 5, np.inf, np.nan], np.float32)
    valid = np.array([True, True, True, True, True, True])
    assert valid_depth(depth, valid).tolist() == [False, False, True, True, False, False]
    assert valid_depth(depth, valid, 5.0).tolist() == [False, False, True, False, False, False]
    assert not valid_depth(depth, ~valid).any()


def test_crop_intrinsics_moves_the_principal_point():
    intrinsics = np.array([10, 20, 30, 40], np.float32)
    cropped = crop_intrinsics(intrinsics, (slice(7, 20), slice(3, None)), (50, 60))
    assert cropped.tolist() == [10, 20, 27, 33] and cropped.dtype == np.float32
    assert crop_intrinsics(intrinsics, WHOLE, (50, 60)).tolist() == intrinsics.tolist()


@pytest.mark.parametrize("cache", [False, True])
def test_scenes_stay_in_memory_only_if_they_are_cached(micro, cache):
    source = open_prior_source(micro, "val", cache=cache)
    assert (source.read(0) is source.read(0)) == cache


def test_scene_window_is_a_crop_of_the_whole(micro):
    source = SceneSource(micro, "train")
    window = (slice(10, 30), slice(20, 60))
    whole = source.read(0)
    part = source.read(0, window)
    for name in ("image", "depth", "valid", "normal", "coarse_depth", "coarse_normal"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[window])
    np.testing.assert_array_equal(part.intrinsics, whole.intrinsics - [0, 0, 20, 10])
    assert part.fit == whole.fit


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_scene_priors_resemble_the_truth_but_differ_from_it(micro, kind):
    config = with_changes(micro, {"prior.kind": kind})
    sample = SceneSource(config, "train").read(2)
    truth = sample.depth if kind == "depth" else 1 / np.maximum(sample.depth, 1e-3)
    correlation = np.corrcoef(sample.coarse_depth[sample.valid], truth[sample.valid])[0, 1]
    assert 0.5 < correlation < 0.999
    assert (sample.coarse_depth >= 0).all() and (sample.coarse_depth <= 1).all()
    np.testing.assert_allclose(np.linalg.norm(sample.coarse_normal, axis=-1), 1, atol=1e-5)


def test_open_prior_source_rejects_a_split_that_scenes_do_not_have(micro):
    with pytest.raises(UserError, match="data.split best does not exist: scenes have train"):
        open_prior_source(micro, "best")


def test_open_training_source_has_a_varied_split_only_for_scenes():
    # As when the weights of such a run are scored on a data set.
    data = Data(source="kitti", path="x", train_split="varied")
    with pytest.raises(UserError, match="data.train_split varied is a split of scenes"):
        open_training_source(Config(data=data))


def test_sets_without_a_split_for_scoring_are_known():
    assert not trains_on_scored_images(Data())
    sets = ("unreal4k", "hypersim", "kitti", "tartanair", "folder")
    shared = [name for name in sets if trains_on_scored_images(Data(source=name, path="x"))]
    assert shared == ["kitti", "tartanair", "folder"]


def test_open_source_rejects_an_unknown_data_set():
    with pytest.raises(UserError, match="no data set .cityscapes"):
        open_source("cityscapes", "somewhere")


def test_default_split_is_used_where_none_is_named():
    assert default_split("scenes", "") == "test" and default_split("scenes", "val") == "val"
    assert default_split("unreal4k", "") == "test_in" and default_split("folder", "") == ""


def test_priors_folder_is_in_the_data_set_unless_another_is_named():
    assert str(priors_folder("set", "")) == "set/priors/all"
    assert str(priors_folder("set", "val", "maps")) == "maps/val"


def write_photos(folder, scale: float):
    """Three images whose depth is 1 to 5 metres times a scale."""
    depth = np.linspace(1, 5, 16 * 24, dtype=np.float32).reshape(16, 24)
    for number in range(3):
        Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(folder / f"photo{number}.png")
        np.save(folder / f"photo{number}_depth.npy", depth * scale)
    return DataSetSource(open_source("folder", folder), None, 80.0)


@pytest.mark.parametrize(
    "scale,message",
    [
        (1000, "its depth is 1000 to 5000 m. It is probably in millimetres: divide it by 1000"),
        (90, "its depth is 90 to 450 m. Raise --data.max_depth"),
    ],
)
def test_depth_in_another_unit_is_named(tmp_path, scale, message):
    source = write_photos(tmp_path, scale)
    with pytest.raises(UserError, match="image photo0 has no depth below data.max_depth 80 m"):
        source.read(0)
    with pytest.raises(UserError, match=message):
        check_depth_range(source)


def test_depth_of_a_few_images_may_be_out_of_range(tmp_path):
    source = write_photos(tmp_path, 1)
    np.save(tmp_path / "photo0_depth.npy", np.full((16, 24), 100, np.float32))
    check_depth_range(source)
    assert not source.read(0, (slice(0, 8), slice(0, 8))).valid.any()


@pytest.mark.parametrize("name", ["nyu_normals", "mattes"])
def test_sets_without_depth_are_not_trained_on(tmp_path, name):
    source = DataSetSource(WRITERS[name](tmp_path).data_set, None, 80.0)
    with pytest.raises(UserError, match="no depth to learn from.* can only be scored"):
        check_depth_range(source)
