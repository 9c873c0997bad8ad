"""Strips of maps side by side."""

import numpy as np
import pytest

from urgt_jax.training.trackers.strips import draw_strips


@pytest.fixture
def maps() -> dict[str, np.ndarray]:
    """Equal coarse, refined and true maps; the true ones have no value in the first row."""
    rng = np.random.default_rng(0)
    depth = rng.random((6, 8), np.float32)
    normal = rng.normal(size=(6, 8, 3)).astype(np.float32)
    valid = np.ones((6, 8), bool)
    valid[0] = False
    maps = {
        "image": np.full((6, 8, 3), 7, np.uint8),
        "valid": valid,
        "normal_valid": valid,
    }
    for side in ("coarse", "refined", "true"):
        maps[f"{side}_depth"] = depth
        maps[f"{side}_normal"] = normal
    return maps


def test_strips_hold_image_and_maps_with_grey_where_the_truth_is_not_known(maps):
    strips = draw_strips(maps)
    assert list(strips) == ["depth", "normal"]
    for strip in strips.values():
        image, coarse, refined, true = np.split(strip, 4, axis=1)
        assert (image == 7).all() and (coarse == refined).all()
        assert (true[0] == 128).all() and (true[1:] == refined[1:]).all()


def test_strips_without_any_valid_depth_are_grey(maps):
    maps["valid"] = maps["valid"] & False
    true = np.split(draw_strips(maps)["depth"], 4, axis=1)[3]
    assert (true == 128).all()
