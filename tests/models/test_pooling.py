"""Attention to pooled keys and values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from urgt_jax.models.attention import attention
from urgt_jax.models.pooling import Cells


@pytest.mark.parametrize("side", [3, 9])
def test_cells_attend_exactly_where_the_tokens_of_a_cell_are_equal(side):
    cells = Cells(2, (4, 5), side)
    rng = np.random.default_rng(0)
    assert cells.sizes.sum() == 2 + 20
    assert len(cells.sizes) == 2 + cells.shape[0] * cells.shape[1]
    rows, cols = np.indices((4, 5)) // side
    cell_of_token = np.append([0, 1], 2 + rows * cells.shape[1] + cols)

    def equal_within_cells():
        values = rng.standard_normal((3, len(cells.sizes), 2, 8))
        return jnp.asarray(values, jnp.float32)[:, cell_of_token].reshape(1, 3 * 22, 2, 8)

    q = jnp.asarray(rng.standard_normal((1, 3 * 22, 2, 8)), jnp.float32)
    k = equal_within_cells()
    v = equal_within_cells()
    expected = attention(q, k[:, :44], v[:, :44])  # only the first two patches are attended to
    out = jax.jit(partial(cells.attend, patches=2))(q, k, v)
    np.testing.assert_allclose(out, expected, atol=3e-6)
