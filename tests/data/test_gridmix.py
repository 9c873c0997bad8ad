"""GridMix: the blocks of a step or a packed row, and the patches that are cut for them."""

import dataclasses

import numpy as np
import pytest

from urgt_jax.config_files import with_changes
from urgt_jax.data import gridmix
from urgt_jax.data.sources import SceneSource
from urgt_jax.images.grid import gridmix_block

PAPER_MIX = (0.1, 0.2, 0.3, 0.4)


def test_block_side_follows_the_mix(micro):
    config = with_changes(micro, {"data.mix": PAPER_MIX})
    sides = [gridmix.block_side(config, step) for step in range(4000)]
    shares = np.bincount(sides, minlength=5)[1:] / 4000
    np.testing.assert_allclose(shares, PAPER_MIX, atol=0.03)


@pytest.mark.parametrize("side", [1, 2, 4])
def test_batching_keeps_the_number_of_images_or_of_patches(micro, side):
    images = with_changes(micro, {"data.batching": "images"}).data
    patches = with_changes(micro, {"data.batching": "patches"}).data
    assert images.images(side) == 8
    assert patches.images(side) * side**2 == 8 * 16


@pytest.mark.parametrize(
    "mix", [PAPER_MIX, (0.0, 0.5, 0.0, 0.5), (0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0)]
)
def test_row_sides_fill_packed_rows_with_the_expected_blocks(packed, mix):
    config = with_changes(packed, {"data.mix": mix})
    rows = []
    for step in range(250):
        for row in range(2):
            rows.append(gridmix.row_sides(config, step, row))
    assert {sum(side**2 for side in sides) for sides in rows} == {16}
    counts = np.mean([np.bincount(sides, minlength=5)[1:] for sides in rows], 0)
    expected = gridmix.mean_blocks_per_row(mix)
    np.testing.assert_allclose(counts, expected, atol=0.3)
    assert expected @ [1, 4, 9, 16] == pytest.approx(16)


def test_mix_that_fits_keeps_the_mix_and_falls_back_to_the_largest_block():
    np.testing.assert_allclose(gridmix.mix_that_fits(PAPER_MIX, 16), PAPER_MIX)
    np.testing.assert_allclose(gridmix.mix_that_fits(PAPER_MIX, 7), [1 / 3, 2 / 3, 0, 0])
    assert gridmix.mix_that_fits((0.0, 0.0, 1.0, 0.0), 7).tolist() == [0, 1, 0, 0]


def test_mean_blocks_per_row_gives_patches_close_to_the_papers_mix():
    shares = gridmix.mean_blocks_per_row(PAPER_MIX) * [1, 4, 9, 16] / 16
    np.testing.assert_allclose(shares, [0.113, 0.204, 0.283, 0.4], atol=5e-4)


def test_patch_owners_number_the_blocks_of_a_row():
    assert gridmix.patch_owners([2, 1]).tolist() == [0, 0, 0, 0, 1]


def test_flip_mirrors_normals_and_intrinsics_and_undoes_itself(micro):
    sample = SceneSource(micro, "train").read(0)
    flipped = gridmix._flip(sample)
    np.testing.assert_array_equal(flipped.normal[:, ::-1] * [-1, 1, 1], sample.normal)
    restored = gridmix._flip(flipped)
    for name in (
        "image",
        "depth",
        "normal",
        "valid",
        "intrinsics",
        "coarse_depth",
        "coarse_normal",
    ):
        np.testing.assert_array_equal(getattr(restored, name), getattr(sample, name))


def test_read_block_does_not_mix_ground_truth_across_edges(micro):
    source = SceneSource(micro, "train")
    batch = gridmix.read_block(source, 1, micro, gridmix_block(48, 72, 4, 0, 0))
    assert np.isin(batch["depth"], source.read(1).depth).all()


@pytest.mark.parametrize("flip", [False, True])
def test_read_block_is_a_part_of_the_whole_image_or_its_mirror_image(micro, flip):
    source = SceneSource(micro, "train")
    part = gridmix.read_block(source, 2, micro, gridmix_block(48, 72, 2, 1, 2), flip)
    whole = gridmix.read_block(source, 2, micro, gridmix_block(48, 72, 4, 0, 0), flip)
    patches = [4 * 1 + 2, 4 * 1 + 3, 4 * 2 + 2, 4 * 2 + 3]
    for name, values in part.items():
        np.testing.assert_allclose(values, whole[name][patches], atol=1e-5, err_msg=name)


def test_read_block_moves_the_principal_point_with_the_patch(micro):
    source = SceneSource(micro, "train")
    sample = source.read(0)
    config = dataclasses.replace(micro, model=dataclasses.replace(micro.model, patch_size=(28, 42)))
    batch = gridmix.read_block(source, 0, config, gridmix_block(48, 72, 1, 2, 3))
    fx, fy, cx, cy = sample.intrinsics
    scale = np.array([42 / 18, 28 / 12])
    expected = [fx * scale[0], fy * scale[1], (cx - 54) * scale[0], (cy - 24) * scale[1]]
    np.testing.assert_allclose(batch["intrinsics"][0], expected, rtol=1e-5)
