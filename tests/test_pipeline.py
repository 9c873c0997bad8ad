"""Batches: functions of the seed and the step, whoever prepares them."""

import dataclasses

import numpy as np
import pytest

from urgt_jax import grid
from urgt_jax.config import Config
from urgt_jax.data import gridmix, pipeline
from urgt_jax.data.priors import degrade, normalise
from urgt_jax.data.sources import Scenes


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


def test_threads_and_workers_give_the_same_batches(micro):
    direct = [pipeline.Batches(micro)[k] for k in range(2, 6)]
    for workers in (0, 2):
        ahead = pipeline.batches(_with(micro, workers=workers), start=2)
        for batch in direct:
            _same(batch, next(ahead))


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
    windows = grid.block(48, 72, 2, 1, 2)
    assert windows.patch == (12, 18)
    assert windows.origins.tolist() == [[12, 36], [12, 54], [24, 36], [24, 54]]


def test_a_flip_mirrors_normals_and_camera(micro):
    picture = Scenes(micro, "train").read(0)
    flipped = gridmix._flip(picture)
    np.testing.assert_array_equal(flipped.normal[:, ::-1] * [-1, 1, 1], picture.normal)
    again = gridmix._flip(flipped)
    for name in ("image", "normal", "valid", "intrinsics", "coarse_depth", "coarse_normal"):
        np.testing.assert_array_equal(getattr(again, name), getattr(picture, name))


def test_truth_is_not_mixed_across_edges(micro):
    scenes = Scenes(micro, "train")
    batch = gridmix.block_of(scenes, 1, micro, grid.block(48, 72, 4, 0, 0))
    assert np.isin(batch["depth"], scenes.read(1).depth).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_block_is_the_same_part_of_the_whole_or_of_its_mirror_image(micro, flip):
    scenes, windows = Scenes(micro, "train"), grid.block(48, 72, 2, 1, 2)
    part = gridmix.block_of(scenes, 2, micro, windows, flip)
    whole = gridmix.block_of(scenes, 2, micro, grid.block(48, 72, 4, 0, 0), flip)
    rows = [4 * 1 + 2, 4 * 1 + 3, 4 * 2 + 2, 4 * 2 + 3]
    for name in part:
        np.testing.assert_allclose(part[name], whole[name][rows], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_priors_are_worse_than_truth_but_tell_of_it(micro, kind):
    picture = Scenes(micro, "train").read(2)
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
    inside, unit = normalise(coarse, dataclasses.replace(micro.prior, kind=kind), 80.0)
    assert inside.min() >= 0 and inside.max() <= 1
    np.testing.assert_allclose(unit.back(inside), coarse, rtol=1e-5)
