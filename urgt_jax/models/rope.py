"""Rotary position embedding in two dimensions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

ROPE_BASE = 100.0


class RotaryAngles(NamedTuple):
    """Cosines and sines of the angles that queries and keys are rotated by.

    Axes: batch, query or key, head, row or column, number of a pair, frequency, token.
    """

    cos: Float[Array, "B 1 1 2 1 F N"]
    sin: Float[Array, "B 1 1 2 2 F N"]  # negative for the first number of a pair


def rotary_angles(positions: Float[Array, "B N 2"], head_size: int) -> RotaryAngles:
    """The angles for rows and columns of tokens; computed once for all blocks."""
    count = head_size // 4
    frequencies = ROPE_BASE ** (-jnp.arange(count, dtype=jnp.float32) / count)
    rows_and_columns = positions.swapaxes(1, 2)[:, None, None, :, None, None]
    angles = rows_and_columns * frequencies[:, None]
    sin = jnp.sin(angles)
    return RotaryAngles(jnp.cos(angles), jnp.concatenate([-sin, sin], axis=4))


def apply_rope(x: Float[Array, "B K H D N"], angles: RotaryAngles) -> Float[Array, "B K H D N"]:
    """Rotate the first half of every head by the row and the second half by the column."""
    *batch, head_size, tokens = x.shape
    pairs = x.astype(jnp.float32).reshape(*batch, 2, 2, head_size // 4, tokens)
    rotated = pairs * angles.cos + jnp.flip(pairs, 4) * angles.sin
    return rotated.reshape(x.shape).astype(x.dtype)
