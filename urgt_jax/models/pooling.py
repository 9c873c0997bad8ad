"""Attention across patches to the means of cells of tokens: approximate, and much cheaper.

A cell counts as much as all its tokens: the logarithm of their number is added to its score
(ToMe's proportional attention: Bolya et al., ICLR 2023, section 3).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from urgt_jax.models.attention import biased_attention


class Cells(NamedTuple):
    """The cells of a patch: each special token alone, and squares of the other tokens."""

    special: int  # tokens before those of the lattice
    tokens: tuple[int, int]  # rows and columns of the lattice
    side: int  # rows and columns of tokens in a cell; cells at the border may have fewer

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        rows, cols = self.tokens
        return math.ceil(rows / self.side), math.ceil(cols / self.side)

    @property
    def sizes(self) -> Float[np.ndarray, "M"]:
        """The number of tokens in each cell, those of special tokens first."""
        rows, cols = self.shape
        rows_in_cell = np.minimum(self.side, self.tokens[0] - self.side * np.arange(rows))
        cols_in_cell = np.minimum(self.side, self.tokens[1] - self.side * np.arange(cols))
        sizes = np.outer(rows_in_cell, cols_in_cell)
        return np.append(np.ones(self.special), sizes).astype(np.float32)

    def pool(self, x: Float[Array, "P N H D"]) -> Float[Array, "P M H D"]:
        """The mean of every cell."""
        patches, _, heads, head_size = x.shape
        rows, cols = self.shape
        special = x[:, : self.special]
        lattice = x[:, self.special :].astype(jnp.float32)
        lattice = lattice.reshape(patches, *self.tokens, heads, head_size)
        missing_rows = rows * self.side - self.tokens[0]
        missing_cols = cols * self.side - self.tokens[1]
        padding = [(0, 0), (0, missing_rows), (0, missing_cols), (0, 0), (0, 0)]
        lattice = jnp.pad(lattice, padding)
        cells = lattice.reshape(patches, rows, self.side, cols, self.side, heads, head_size)
        sums = cells.sum((2, 4)).reshape(patches, rows * cols, heads, head_size)
        means = (sums / self.sizes[self.special :, None, None]).astype(x.dtype)
        return jnp.concatenate([special, means], 1)

    def attend(
        self,
        q: Float[Array, "B N H D"],
        k: Float[Array, "B N H D"],
        v: Float[Array, "B N H D"],
        patches: int,
    ) -> Float[Array, "B N H D"]:
        """Attention of the tokens of all patches to the cells of the first `patches` patches."""
        count = self.special + self.tokens[0] * self.tokens[1]

        def pool_patches(x):
            batch, _, heads, head_size = x.shape
            by_patch = x[:, : patches * count].reshape(batch * patches, count, heads, head_size)
            return self.pool(by_patch).reshape(batch, -1, heads, head_size)

        bias = jnp.tile(jnp.log(self.sizes), patches)
        return biased_attention(q, pool_patches(k), pool_patches(v), bias)
