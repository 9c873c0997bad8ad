"""Patches of an image: cutting and merging is the identity for every grid, overlap and odd size."""

import tracemalloc

import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.images import grid
from urgt_jax.images import rows as rows_module

CASES = [
    (37, 53, 4, 4, 0.3),
    (64, 64, 1, 1, 0.0),
    (51, 20, 3, 5, 0.0),
    (9, 41, 2, 7, 0.5),
    (9, 41, 2, 7, 0.7),
]


def merge_strips(patches, windows, weight):
    """Rows and values of every strip of one merged map."""
    maps = ({"map": patch} for patch in patches)
    return [(rows, strip["map"]) for rows, strip in grid.merge_windows(maps, windows, weight)]


def merge_at_once(patches, windows, weight):
    """The merged map, computed all at once."""
    total = np.zeros((*windows.image_size, patches.shape[-1]), np.float32)
    weights = np.zeros((*windows.image_size, 1), np.float32)
    for k, patch in enumerate(patches):
        total[windows.window(k)] += patch * weight[..., None]
        weights[windows.window(k)] += weight[..., None]
    return total / weights


@pytest.mark.parametrize("height,width,rows,cols,overlap", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_cut_and_merge_windows_is_the_identity(height, width, rows, cols, overlap, weighted):
    image = np.random.default_rng(0).standard_normal((height, width, 2)).astype(np.float32)
    windows = grid.cover_image(height, width, rows, cols, overlap)
    weight = grid.centre_weight(*windows.patch) if weighted else np.ones(windows.patch, np.float32)
    strips = merge_strips(grid.cut_windows(image, windows), windows, weight)
    merged = np.concatenate([strip for _, strip in strips])
    np.testing.assert_allclose(merged, image, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("height,width,rows,cols,overlap", CASES)
def test_merge_windows_yields_the_rows_of_the_whole_to_the_last_bit(
    height, width, rows, cols, overlap, monkeypatch
):
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 5)
    windows = grid.cover_image(height, width, rows, cols, overlap)
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((windows.count, *windows.patch, 2)).astype(np.float32)
    weight = grid.centre_weight(*windows.patch)
    strips = merge_strips(patches, windows, weight)
    assert max(len(strip) for _, strip in strips) <= 5
    covered = [row for where, _ in strips for row in range(where.start, where.stop)]
    assert covered == list(range(height))
    merged = np.concatenate([strip for _, strip in strips])
    np.testing.assert_array_equal(merged, merge_at_once(patches, windows, weight))


def test_merge_windows_holds_one_row_of_windows_only():
    windows = grid.cover_image(4096, 64, 32, 1)
    patches = ({"map": np.ones((*windows.patch, 2), np.float32)} for _ in range(windows.count))
    tracemalloc.start()
    for _ in grid.merge_windows(patches, windows, np.ones(windows.patch, np.float32)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 4096 * 64 * 2 * 4
    assert peak < whole / 3


def test_token_positions_of_touching_patches_form_one_lattice():
    windows = grid.cover_image(40, 60, 2, 3)
    positions = np.asarray(grid.token_positions(windows.origins, windows.patch, (2, 2)))
    lattice = [(row, column) for row in range(1, 5) for column in range(1, 7)]
    assert sorted(map(tuple, positions.reshape(-1, 2))) == lattice


@pytest.mark.parametrize(
    "size,rows,cols",
    [
        ((2160, 3840), 4, 7),
        ((4320, 7680), 8, 15),
        ((300, 200), 1, 1),
        ((8, 9), 1, 1),
        ((8640, 15360), 12, 21),  # 17 x 30 would be 510
        ((600, 10**6), 1, 256),
    ],
)
def test_choose_grid_fits_patches_to_the_image_up_to_the_limit(size, rows, cols):
    patch_size = (518, 518)
    assert grid.choose_grid(size, (0, 0), patch_size, 256) == (rows, cols)
    assert grid.choose_grid(size, (3, 5), patch_size, 256) == (3, 5)
    few = np.prod(grid.choose_grid(size, (0, 0), patch_size, 20))
    assert min(rows * cols, 10) <= few <= 20
    assert grid.cover_image(*size, rows, cols).count == rows * cols <= 256


def test_cover_image_rejects_more_patches_than_pixels_and_a_full_overlap():
    with pytest.raises(UserError, match="grid of 9 x 2 does not fit an image of 8 x 8"):
        grid.cover_image(8, 8, 9, 2)
    with pytest.raises(UserError, match="overlap 1.0 is out of range"):
        grid.cover_image(8, 8, 2, 2, 1.0)
