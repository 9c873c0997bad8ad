"""Solids as the host draws them. `rays.py` intersects them with rays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from urgt_jax.data.scenes.textures import Look

SIGNS = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, 8).T


@dataclass(frozen=True)
class Solid:
    """A solid. Its local axes are the rows of `axes`; an elongated solid is long along z."""

    kind: str
    centre: np.ndarray  # [3] metres; of a plane, any point on it
    axes: np.ndarray  # [3, 3]
    half: np.ndarray  # [3] half sizes in metres
    look: Look
    shape: np.ndarray | None = None  # parameters of the kind: exponents, half-spaces, waves
    casts_shadow: bool = True


def corners(solid: Solid) -> Float[np.ndarray, "8 3"]:
    """Corners of the bounding box, metres."""
    return solid.centre + (SIGNS * solid.half) @ solid.axes
