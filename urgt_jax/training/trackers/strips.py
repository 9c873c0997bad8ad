"""Images of predictions for trackers: maps side by side, as colours."""

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from urgt_jax.images.colour import RGB, colour_normal, colour_values
from urgt_jax.images.geometry import unit_normals

SIDES = ("coarse", "refined", "true")
Strip = UInt8[np.ndarray, "H S 3"]  # four maps side by side
GREY = np.uint8(128)  # where a true map has no value


def draw_strips(maps: dict[str, Shaped[np.ndarray, "H W ..."]]) -> dict[str, Strip]:
    """Image, coarse, refined and true map side by side, for depth and for normals.

    Depth has one colour scale for all three maps. True maps are grey where they have no value.
    """
    image = maps["image"].astype(np.uint8)
    strips = {}
    if "true_depth" in maps:
        low, high = _depth_limits(maps["true_depth"], maps["valid"])
        pictures = [colour_values(maps[f"{side}_depth"], low, high) for side in SIDES]
        strips["depth"] = _join(image, pictures, maps["valid"])
    if "true_normal" in maps:
        pictures = [colour_normal(unit_normals(maps[f"{side}_normal"])) for side in SIDES]
        strips["normal"] = _join(image, pictures, maps["normal_valid"])
    return strips


def _depth_limits(
    depth: Float[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> tuple[float, float]:
    """The range of true depth without outliers."""
    if not valid.any():
        return 0.0, 1.0
    low, high = np.percentile(depth[valid], (1, 99))
    return float(low), float(high)


def _join(image: RGB, pictures: list[RGB], valid: Bool[np.ndarray, "H W"]) -> Strip:
    coarse, refined, true = pictures
    true = np.where(valid[..., None], true, GREY)
    return np.concatenate([image, coarse, refined, true], axis=1)
