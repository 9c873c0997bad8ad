"""Batches: functions of the seed and the step, whoever prepares them."""

import dataclasses
import json
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from urgt_jax.config import Config
from urgt_jax.data import gridmix, pipeline
from urgt_jax.data.pipeline import UNREAD, UnreadImage
from urgt_jax.data.priors import stored
from urgt_jax.data.priors.degrade import degrade
from urgt_jax.data.priors.units import to_network_unit
from urgt_jax.data.sources import DataSetSource, SceneSource, open_prior_source, open_source
from urgt_jax.errors import UserError
from urgt_jax.images import grid

SIZE = (16, 24)
PHOTOS = 6


def _same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


def _with(config: Config, **data) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batch_of_one(micro, hosts):
    whole = pipeline.Batches(micro)[3]
    parts = [pipeline.Batches(micro, host, hosts)[3] for host in range(hosts)]
    _same(whole, {n: np.concatenate([p[n] for p in parts]) for n in whole})


def test_threads_give_the_same_batches(micro):
    ahead = pipeline.batch_iterator(micro, start=2)
    for k in range(2, 6):
        _same(pipeline.Batches(micro)[k], next(ahead))


def _photos(folder):
    """Random pictures with depth, cameras and coarse maps, as a folder of one's own."""
    origin = {name: {"geometry": "centres"} for name in ("depth", "normal")}
    priors = folder / "priors" / "all"
    priors.mkdir(parents=True)
    kept = stored.claim_folder(priors, {"kind": "disparity", "max_depth": 80.0, **origin})
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{i}.png")
        depth = rng.uniform(2, 60, SIZE).astype(np.float32)
        np.save(folder / f"photo{i}_depth.npy", depth)
        normal = np.tile(np.float32([0, 0, -1]), (4, 6, 1))
        kept.write(f"photo{i}", 1 / depth[::4, ::4], normal, depth, depth > 0)
    (folder / "dataset.json").write_text(json.dumps({"intrinsics": [20, 20, 12, 8]}))
    return folder


@pytest.fixture
def photos(tmp_path):
    """Pictures of one's own, all of them sound."""
    folder = _photos(tmp_path / "photos")
    priors = stored.StoredPriors(folder / "priors" / "all")
    return DataSetSource(open_source("folder", folder), priors, 80.0)


def _damage(photos: DataSetSource, number: int, name: str = "photo{}.png") -> None:
    """Cuts off the end of one of a picture's files."""
    path = photos.source.path / name.format(number)
    path.write_bytes(path.read_bytes()[:-50])


def _row(photos: DataSetSource, config: Config, index: int, step: int, row: int):
    """What a picture gives in a row of a step."""
    rng = np.random.default_rng([config.seed, 3, step, row])
    return gridmix.draw_block(photos, index, config, gridmix.block_side(config, step), rng)["image"]


@pytest.mark.parametrize(
    "name", ["photo{}.png", "photo{}_depth.npy", "priors/all/photo{}_normal.npy"]
)
def test_only_rows_of_a_damaged_picture_are_read_from_others(micro, photos, name):
    batches = pipeline.Batches(micro, source=photos)
    sound = batches[1]
    rows = np.array([index for index, _ in batches.drawn_images(1)]) == 3
    _damage(photos, 3, name)
    batch = batches[1]
    failed = batch.pop(UNREAD)
    assert [failure.index for failure in failed] == [3] * rows.sum() and rows.any()
    assert all(name.format(3) in failure.why for failure in failed)
    _same({n: x[~rows] for n, x in batch.items()}, {n: x[~rows] for n, x in sound.items()})


def test_a_damaged_picture_is_replaced_by_any_of_the_others(micro, photos):
    steps = range(6)
    rows = {
        (step, row): [_row(photos, micro, i, step, row) for i in range(PHOTOS)]
        for step in steps
        for row, (index, _) in enumerate(pipeline.Batches(micro, source=photos).drawn_images(step))
        if index == 3
    }
    _damage(photos, 3)
    batches = [pipeline.Batches(micro, source=photos)[step] for step in steps]
    found = [
        [i for i, image in enumerate(images) if (image == batches[step]["image"][row]).all()]
        for (step, row), images in rows.items()
    ]
    assert all(len(same) == 1 for same in found)
    assert 3 not in np.ravel(found) and len(np.unique(found)) > 2


def test_hosts_agree_on_what_stands_in(micro, photos):
    _damage(photos, 3)
    whole = pipeline.Batches(micro, source=photos)[1]
    parts = [pipeline.Batches(micro, host, 2, photos)[1] for host in (0, 1)]
    assert whole.pop(UNREAD) == sum((part.pop(UNREAD, []) for part in parts), [])
    _same(whole, {n: np.concatenate([p[n] for p in parts]) for n in whole})


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_workers_agree_on_what_stands_in(micro, photos, workers):
    _damage(photos, 3)
    ahead = pipeline.batch_iterator(_with(micro, workers=workers), start=1, source=photos)
    for k in range(1, 5):
        direct, batch = pipeline.Batches(micro, source=photos)[k], next(ahead)
        assert direct.pop(UNREAD, None) == batch.pop(UNREAD, None)
        _same(direct, batch)


def test_a_killed_worker_is_told_in_one_line(micro, photos):
    others = set(multiprocessing.active_children())  # of tests before
    ahead = pipeline.batch_iterator(_with(micro, workers=1), start=0, source=photos)
    next(ahead)
    (worker,) = set(multiprocessing.active_children()) - others
    worker.kill()
    with pytest.raises(UserError, match="was killed, for lack of memory"):
        list(ahead)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_damaged_pictures_is_one_line(micro, photos, workers):
    for number in range(PHOTOS):
        _damage(photos, number)
    ahead = pipeline.batch_iterator(_with(micro, workers=workers), start=0, source=photos)
    with pytest.raises(UserError, match=r"photo\d.png cannot be read.*in vain: 5") as told:
        next(ahead)
    assert "\n" not in str(told.value)


def test_a_failing_disk_is_told_like_a_damaged_file(micro):
    class Failing(SceneSource):
        def read(self, index, window):
            if index == 2:
                raise OSError("the disk\nfailed")
            return super().read(index, window)

    batch = pipeline.Batches(micro, source=Failing(micro, "train"))[0]
    assert set(batch[UNREAD]) == {UnreadImage(2, "the disk failed")}


def test_each_picture_that_cannot_be_read_is_told_once(micro, photos):
    unread = pipeline.UnreadableImages(_with(micro, max_unreadable=2), photos)
    batch = {
        "image": 0,
        UNREAD: [UnreadImage(4, "why"), UnreadImage(4, "why"), UnreadImage(1, "other")],
    }
    told = list(unread.report(batch))
    assert batch == {"image": 0}
    assert [line.split(",")[0] for line in told] == [
        f"picture photo{i} cannot be read" for i in (4, 1)
    ]
    assert told[0].endswith("(1 of at most 2): why") and told[1].endswith("(2 of at most 2): other")
    assert list(unread.report(batch)) == []
    assert list(unread.report({UNREAD: [UnreadImage(1, "other")]})) == []


@pytest.mark.parametrize("limit", [0, 2])
def test_too_many_pictures_that_cannot_be_read_end_the_run(micro, photos, limit):
    unread = pipeline.UnreadableImages(_with(micro, max_unreadable=limit), photos)
    lines = unread.report({UNREAD: [UnreadImage(i, f"reason {i}") for i in range(PHOTOS)]})
    for i in range(limit):
        assert f"photo{i} " in next(lines)
    wanted = rf"photo{limit} .*reason {limit}; .*: {limit + 1}, .* allows {limit}: repair"
    with pytest.raises(UserError, match=wanted):
        next(lines)


@pytest.mark.parametrize("hosts", [1, 2])
def test_the_pictures_of_a_step_are_those_of_its_rows(micro, photos, hosts):
    batches = pipeline.Batches(micro, hosts - 1, hosts, photos)
    drawn = [index for k in range(3) for index, _ in batches.drawn_images(k)]
    for epoch in np.split(np.array(drawn), 4):  # three steps of eight rows
        assert sorted(epoch) == list(range(PHOTOS))
    assert all(name == f"photo{index}" for index, name in batches.drawn_images(2))
    share = 8 // hosts
    for row, image in enumerate(batches[2]["image"], (hosts - 1) * share):
        wanted = _row(photos, micro, batches.drawn_images(2)[row][0], 2, row)
        np.testing.assert_array_equal(image, wanted)


def test_sides_follow_their_probabilities(micro):
    mix = (0.1, 0.2, 0.3, 0.4)
    sides = [gridmix.block_side(_with(micro, mix=mix), step) for step in range(4000)]
    found = np.bincount(sides, minlength=5)[1:] / 4000
    np.testing.assert_allclose(found, mix, atol=0.03)


def test_a_step_is_filled_by_images_or_by_patches(micro):
    for m in (1, 2, 4):
        assert _with(micro, fill="images").data.images(m) * m * m == 8 * m * m
        assert _with(micro, fill="patches").data.images(m) * m * m == 8 * 16


def test_blocks_are_contiguous_quarters(micro):
    windows = grid.gridmix_block(48, 72, 2, 1, 2)
    assert windows.patch == (12, 18)
    assert windows.origins.tolist() == [[12, 36], [12, 54], [24, 36], [24, 54]]


def test_a_flip_mirrors_normals_and_camera(micro):
    picture = SceneSource(micro, "train").read(0)
    flipped = gridmix._flip(picture)
    np.testing.assert_array_equal(flipped.normal[:, ::-1] * [-1, 1, 1], picture.normal)
    again = gridmix._flip(flipped)
    for name in ("image", "normal", "valid", "intrinsics", "coarse_depth", "coarse_normal"):
        np.testing.assert_array_equal(getattr(again, name), getattr(picture, name))


@pytest.mark.parametrize("keep", [False, True])
def test_scenes_stay_in_memory_only_where_they_are_read_again(micro, keep):
    pictures = open_prior_source(micro, "val", cache=keep)
    assert (pictures.read(0) is pictures.read(0)) == keep


def test_truth_is_not_mixed_across_edges(micro):
    scenes = SceneSource(micro, "train")
    batch = gridmix.read_block(scenes, 1, micro, grid.gridmix_block(48, 72, 4, 0, 0))
    assert np.isin(batch["depth"], scenes.read(1).depth).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_block_is_the_same_part_of_the_whole_or_of_its_mirror_image(micro, flip):
    scenes, windows = SceneSource(micro, "train"), grid.gridmix_block(48, 72, 2, 1, 2)
    part = gridmix.read_block(scenes, 2, micro, windows, flip)
    whole = gridmix.read_block(scenes, 2, micro, grid.gridmix_block(48, 72, 4, 0, 0), flip)
    rows = [4 * 1 + 2, 4 * 1 + 3, 4 * 2 + 2, 4 * 2 + 3]
    for name in part:
        np.testing.assert_allclose(part[name], whole[name][rows], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_priors_are_worse_than_truth_but_tell_of_it(micro, kind):
    picture = SceneSource(micro, "train").read(2)
    prior = dataclasses.replace(micro.prior, kind=kind)
    rng = np.random.default_rng(0)
    depth, normal = degrade(picture.depth, picture.normal, picture.valid, prior, rng, 80.0)
    truth = picture.depth if kind == "depth" else 1 / np.maximum(picture.depth, 1e-3)
    alike = np.corrcoef(depth[picture.valid], truth[picture.valid])[0, 1]
    assert 0.5 < alike < 0.999
    assert (depth >= 0).all() and (depth <= 1).all()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_units_go_there_and_back(micro, kind):
    coarse = np.random.default_rng(0).uniform(3, 70, (8, 9)).astype(np.float32)
    inside, unit = to_network_unit(coarse, dataclasses.replace(micro.prior, kind=kind), 80.0)
    assert inside.min() >= 0 and inside.max() <= 1
    np.testing.assert_allclose(unit.restore(inside), coarse, rtol=1e-5)
