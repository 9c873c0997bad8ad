"""Patches: cut then place is the identity for every grid, overlap and odd size."""

import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.images import grid

CASES = [(37, 53, 4, 4, 0.3), (64, 64, 1, 1, 0.0), (51, 20, 3, 5, 0.0), (9, 41, 2, 7, 0.5)]


@pytest.mark.parametrize("height,width,rows,cols,overlap", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_cut_then_place_is_the_identity(height, width, rows, cols, overlap, weighted):
    picture = np.random.default_rng(0).standard_normal((height, width, 2)).astype(np.float32)
    windows = grid.cover_image(height, width, rows, cols, overlap)
    weight = grid.centre_weight(*windows.patch) if weighted else np.ones(windows.patch, np.float32)
    again = grid.place(grid.cut_windows(picture, windows), windows, weight)
    np.testing.assert_allclose(again, picture, rtol=1e-5, atol=1e-6)


def test_positions_of_touching_patches_make_one_lattice():
    windows = grid.cover_image(40, 60, 2, 3)
    spots = np.asarray(grid.token_positions(windows.origins, windows.patch, (2, 2)))
    assert sorted(map(tuple, spots.reshape(-1, 2))) == [
        (r, c) for r in (1, 2, 3, 4) for c in range(1, 7)
    ]


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
def test_a_grid_of_0_x_0_shows_the_picture_at_its_own_resolution(size, rows, cols):
    def split(size, asked=(0, 0), limit=256):
        return grid.choose_grid(size, asked, (518, 518), limit)

    assert split(size) == (rows, cols)
    assert split(size, (3, 5)) == (3, 5)
    few = split(size, limit=20)
    assert np.prod(few) <= 20 and np.prod(few) >= min(rows * cols, 10)
    assert rows * cols <= 256 and grid.cover_image(*size, rows, cols).count == rows * cols


def test_a_grid_finer_than_the_picture_is_told():
    with pytest.raises(UserError, match="grid of 9 x 2"):
        grid.cover_image(8, 8, 9, 2)
