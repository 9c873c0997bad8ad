"""Rotary position embedding in two dimensions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

ROPE_BASE = 100.0
Positions = Float[Array, "B N 2"]


class RotaryAngles(NamedTuple):
    """Cosines and sines of the angles by which queries and keys are turned.

    They are for both numbers of a pair, the sine with its sign.
    """

    cos: Float[Array, "B 1 1 2 1 F N"]
    sin: Float[Array, "B 1 1 2 2 F N"]


def rotary_angles(spots: Positions, size: int) -> RotaryAngles:
    """The angles of rows and columns, for heads of some size; made once for all blocks."""
    quarter = size // 4
    speed = ROPE_BASE ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
    angle = spots.swapaxes(1, 2)[:, None, None, :, None, None] * speed[:, None]
    return RotaryAngles(jnp.cos(angle), jnp.concatenate([-jnp.sin(angle), jnp.sin(angle)], 4))


def apply_rope(x: Float[Array, "B K H D N"], turn: RotaryAngles) -> Float[Array, "B K H D N"]:
    """Rotary embedding in two dimensions: first half by the row, second by the column."""
    *heads, size, count = x.shape
    pair = x.astype(jnp.float32).reshape(*heads, 2, 2, size // 4, count)
    turned = pair * turn.cos + jnp.flip(pair, 4) * turn.sin
    return turned.reshape(x.shape).astype(x.dtype)
