"""Attention across patches to means over small cells of tokens: approximate, and much cheaper.

A cell counts as much as the tokens in it, by the logarithm of their number beside its score (ToMe's
proportional attention: Bolya et al., ICLR 2023, section 3).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from urgt_jax.models.attention import biased_attention


class Cells(NamedTuple):
    """How the tokens of a patch are pooled: its special ones not at all, the others by cells."""

    special: int  # tokens before those of the lattice
    tokens: tuple[int, int]  # rows and columns of the lattice
    side: int  # rows and columns of a cell; at the border cells may have fewer

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return tuple(-(-n // self.side) for n in self.tokens)

    @property
    def sizes(self) -> Float[np.ndarray, "M"]:
        """How many tokens each of a patch's keys stands for."""
        rows, cols = (
            np.minimum(self.side, n - self.side * np.arange(m))
            for n, m in zip(self.tokens, self.shape, strict=True)
        )
        return np.append(np.ones(self.special), np.outer(rows, cols)).astype(np.float32)

    def pool(self, x: Float[Array, "P N H D"]) -> Float[Array, "P M H D"]:
        """Special tokens, and the mean of every cell."""
        (rows, cols), k, rest = self.shape, self.side, x.shape[2:]
        lattice = x[:, self.special :].astype(jnp.float32).reshape(-1, *self.tokens, *rest)
        room = [(0, m * k - n) for n, m in zip(self.tokens, self.shape, strict=True)]
        lattice = jnp.pad(lattice, [(0, 0), *room, (0, 0), (0, 0)])
        sums = lattice.reshape(-1, rows, k, cols, k, *rest).sum((2, 4))
        sums = sums.reshape(-1, rows * cols, *rest)
        means = (sums / self.sizes[self.special :, None, None]).astype(x.dtype)
        return jnp.concatenate([x[:, : self.special], means], 1)

    def attend(
        self,
        q: Float[Array, "B N H D"],
        k: Float[Array, "B N H D"],
        v: Float[Array, "B N H D"],
        patches: int,
    ) -> Float[Array, "B N H D"]:
        """Attention of the tokens of all patches to the pooled ones of the first `patches`."""
        count = self.special + self.tokens[0] * self.tokens[1]

        def seen(x):
            apart = x[:, : patches * count].reshape(-1, count, *x.shape[2:])
            return self.pool(apart).reshape(x.shape[0], -1, *x.shape[2:])

        return biased_attention(q, seen(k), seen(v), jnp.tile(jnp.log(self.sizes), patches))
