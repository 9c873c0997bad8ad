"""Refining one image file."""

import numpy as np
import pytest

from urgt_jax.errors import UserError
from urgt_jax.inference.refine_file import check_finite
from urgt_jax.inference.refiner import Result


def strips(depth, normal, rows_at_once=4):
    """Maps as a refiner yields them."""
    for first in range(0, len(depth), rows_at_once):
        rows = slice(first, min(first + rows_at_once, len(depth)))
        yield rows, Result(depth[rows], normal[rows], None, None)


def maps(size=(9, 7)):
    """Depth that rises with the row, and normals towards the camera."""
    depth = np.linspace(0.5, 2, size[0], dtype=np.float32)[:, None].repeat(size[1], 1)
    normal = np.zeros((*size, 3), np.float32)
    normal[..., 2] = -1
    return depth, normal


def test_check_finite_names_the_weights_of_a_result_with_nan():
    depth, normal = maps()
    assert len(list(check_finite(strips(depth, normal), "w"))) == 3
    normal[7, 3] = np.nan
    with pytest.raises(UserError, match="contain NaN: the weights runs/w are damaged"):
        list(check_finite(strips(depth, normal), "runs/w"))
