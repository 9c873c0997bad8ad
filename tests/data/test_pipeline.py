"""Batches: functions of the seed and the step, however they are prepared."""

import json
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from urgt_jax.config import Config
from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix
from urgt_jax.data.pipeline import (
    UNREAD,
    Batches,
    UnreadableImages,
    UnreadImage,
    batch_iterator,
)
from urgt_jax.data.priors.stored import StoredPriors, claim_folder
from urgt_jax.data.sources import DataSetSource, SceneSource, open_source
from urgt_jax.errors import UserError

SIZE = (16, 24)
PHOTOS = 6


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], name)


def joined(parts):
    """The batch of all hosts from the batches of each."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_of_several_hosts_are_parts_of_the_batch_of_one(micro, hosts):
    whole = Batches(micro)[3]
    assert_same(whole, joined([Batches(micro, host, hosts)[3] for host in range(hosts)]))


def test_batch_iterator_gives_the_batches_from_a_step_on(micro):
    iterator = batch_iterator(micro, start=2)
    for step in range(2, 6):
        assert_same(Batches(micro)[step], next(iterator))


def test_packed_row_is_its_blocks_one_after_the_other(packed):
    batches = Batches(packed)
    # The first step whose first row has blocks of three sides at least.
    step = next(k for k in range(99) if len(set(gridmix.row_sides(packed, k, 0))) >= 3)
    batch = batches[step]
    assert batch["owner"].dtype == np.int32 and batch["owner"].shape == (2, 16)
    images = batches.drawn_images(step)
    start = 0
    for place, side in enumerate(gridmix.row_sides(packed, step, 0)):
        patches = slice(start, start + side**2)
        [(index, _)] = set(images[patches])
        rng = np.random.default_rng([packed.seed, 3, step, place])
        expected = gridmix.draw_block(batches.source, index, packed, side, rng)
        for name in expected:
            np.testing.assert_array_equal(batch[name][0, patches], expected[name], name)
        assert (batch["owner"][0, patches] == place).all()
        start += side**2
    assert start == 16 and len(images) == 32


def test_packed_rows_do_not_depend_on_hosts_or_the_first_step(packed):
    whole = Batches(packed)[3]
    assert_same(whole, joined([Batches(packed, host, 2)[3] for host in range(2)]))
    assert_same(whole, next(batch_iterator(packed, start=3)))


@pytest.fixture
def photos(tmp_path) -> DataSetSource:
    """A folder of random images with depth, intrinsics and coarse maps."""
    folder = tmp_path / "photos"
    priors = folder / "priors" / "all"
    priors.mkdir(parents=True)
    origin = {"kind": "disparity", "max_depth": 80.0}
    origin |= {kind: {"geometry": "centres"} for kind in ("depth", "normal")}
    stored = claim_folder(priors, origin)
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
        depth = rng.uniform(2, 60, SIZE).astype(np.float32)
        np.save(folder / f"photo{number}_depth.npy", depth)
        normal = np.tile(np.float32([0, 0, -1]), (4, 6, 1))
        stored.write(f"photo{number}", 1 / depth[::4, ::4], normal, depth, depth > 0)
    (folder / "dataset.json").write_text(json.dumps({"intrinsics": [20, 20, 12, 8]}))
    return DataSetSource(open_source("folder", folder), StoredPriors(priors), 80.0)


def damage(photos: DataSetSource, number: int, name: str = "photo{}.png") -> None:
    """Cuts off the end of one of an image's files."""
    path = photos.source.path / name.format(number)
    path.write_bytes(path.read_bytes()[:-50])


def image_row(photos: DataSetSource, config: Config, index: int, step: int, row: int):
    """The patches that an image gives in a row of a step."""
    rng = np.random.default_rng([config.seed, 3, step, row])
    side = gridmix.block_side(config, step)
    return gridmix.draw_block(photos, index, config, side, rng)["image"]


@pytest.mark.parametrize(
    "name", ["photo{}.png", "photo{}_depth.npy", "priors/all/photo{}_normal.npy"]
)
def test_batch_replaces_only_the_rows_of_a_damaged_image(micro, photos, name):
    batches = Batches(micro, source=photos)
    original = batches[1]
    damaged_rows = np.array([index for index, _ in batches.drawn_images(1)]) == 3
    damage(photos, 3, name)
    batch = batches[1]
    unread = batch.pop(UNREAD)
    assert damaged_rows.any()
    assert [image.index for image in unread] == [3] * damaged_rows.sum()
    assert all(name.format(3) in image.reason for image in unread)
    assert_same(
        {key: values[~damaged_rows] for key, values in batch.items()},
        {key: values[~damaged_rows] for key, values in original.items()},
    )


def test_batch_replaces_a_damaged_image_by_any_of_the_others(micro, photos):
    batches = Batches(micro, source=photos)
    choices = {}  # (step, row) of the damaged image -> the patches that each image would give
    for step in range(6):
        for row, (index, _) in enumerate(batches.drawn_images(step)):
            if index == 3:
                choices[step, row] = [image_row(photos, micro, i, step, row) for i in range(PHOTOS)]
    damage(photos, 3)
    replacements = []
    for (step, row), images in choices.items():
        patches = batches[step]["image"][row]
        [index] = [i for i, image in enumerate(images) if (image == patches).all()]
        replacements.append(index)
    assert 3 not in replacements and len(set(replacements)) > 2


def test_hosts_agree_on_the_replacements_of_a_damaged_image(micro, photos):
    damage(photos, 3)
    whole = Batches(micro, source=photos)[1]
    parts = [Batches(micro, host, 2, photos)[1] for host in (0, 1)]
    assert whole.pop(UNREAD) == parts[0].pop(UNREAD, []) + parts[1].pop(UNREAD, [])
    assert_same(whole, joined(parts))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_agree_on_the_replacements_of_a_damaged_image(micro, photos, workers):
    damage(photos, 3)
    config = with_changes(micro, {"data.workers": workers})
    iterator = batch_iterator(config, start=1, source=photos)
    for step in range(1, 5):
        expected = Batches(micro, source=photos)[step]
        batch = next(iterator)
        assert expected.pop(UNREAD, None) == batch.pop(UNREAD, None)
        assert_same(expected, batch)


def test_workers_render_on_the_cpu_whatever_device_the_run_has(micro, monkeypatch):
    expected = Batches(micro)[0]
    # Read by the worker process alone: here JAX has started already.
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    config = with_changes(micro, {"data.workers": 1})
    assert_same(next(batch_iterator(config, start=0)), expected)


def test_batch_iterator_reports_a_killed_worker_in_one_line(micro, photos):
    others = set(multiprocessing.active_children())  # of earlier tests
    config = with_changes(micro, {"data.workers": 1})
    iterator = batch_iterator(config, start=0, source=photos)
    next(iterator)
    [worker] = set(multiprocessing.active_children()) - others
    worker.kill()
    with pytest.raises(UserError, match="was killed, perhaps because memory ran out"):
        list(iterator)


@pytest.mark.parametrize("workers", [0, 1])
def test_batch_iterator_ends_in_one_line_if_all_images_are_damaged(micro, photos, workers):
    for number in range(PHOTOS):
        damage(photos, number)
    config = with_changes(micro, {"data.workers": workers})
    iterator = batch_iterator(config, start=0, source=photos)
    with pytest.raises(UserError, match=r"photo\d.png .*without success: 5") as caught:
        next(iterator)
    assert "\n" not in str(caught.value)


def test_batch_treats_a_failing_disk_like_a_damaged_file(micro):
    class FailingSource(SceneSource):
        def read(self, index, window):
            if index == 2:
                raise OSError("the disk\nfailed")
            return super().read(index, window)

    batch = Batches(micro, source=FailingSource(micro, "train"))[0]
    assert set(batch[UNREAD]) == {UnreadImage(2, "the disk failed")}


def test_unreadable_images_reports_each_image_once(micro, photos):
    unreadable = UnreadableImages(with_changes(micro, {"data.max_unreadable": 2}), photos)
    first = UnreadImage(4, "why")
    second = UnreadImage(1, "other")
    batch = {"image": 0, UNREAD: [first, first, second]}
    lines = list(unreadable.report(batch))
    assert batch == {"image": 0}
    assert lines == [
        "image photo4 cannot be read, another takes its place (1 of at most 2): why",
        "image photo1 cannot be read, another takes its place (2 of at most 2): other",
    ]
    assert list(unreadable.report(batch)) == []
    assert list(unreadable.report({UNREAD: [second]})) == []


@pytest.mark.parametrize("limit", [0, 2])
def test_unreadable_images_ends_the_run_beyond_the_limit(micro, photos, limit):
    unreadable = UnreadableImages(with_changes(micro, {"data.max_unreadable": limit}), photos)
    images = [UnreadImage(number, f"reason {number}") for number in range(PHOTOS)]
    lines = unreadable.report({UNREAD: images})
    for number in range(limit):
        assert f"photo{number} " in next(lines)
    message = (
        rf"photo{limit} .*reason {limit}; {limit + 1} images .*data.max_unreadable is {limit}: "
    )
    with pytest.raises(UserError, match=message):
        next(lines)


@pytest.mark.parametrize("hosts", [1, 2])
def test_drawn_images_are_those_of_the_rows(micro, photos, hosts):
    batches = Batches(micro, hosts - 1, hosts, photos)
    indices = [index for step in range(3) for index, _ in batches.drawn_images(step)]
    for epoch in np.split(np.array(indices), 4):  # three steps of eight rows
        assert sorted(epoch) == list(range(PHOTOS))
    images = batches.drawn_images(2)
    assert all(name == f"photo{index}" for index, name in images)
    first = (hosts - 1) * 8 // hosts
    for row, patches in enumerate(batches[2]["image"], first):
        expected = image_row(photos, micro, images[row][0], 2, row)
        np.testing.assert_array_equal(patches, expected)
