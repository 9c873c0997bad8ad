"""Textures."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.small_scenes import make_builder, scene_of

from urgt_jax.data.scenes.arrays import pack
from urgt_jax.data.scenes.paint import PATTERNS, paint

COUNT = 500  # pixels of each pattern


@pytest.fixture(scope="module")
def painted():
    """Colours of all patterns where a pixel is small and where it is large: [pattern, pixel, 3]."""
    builder = make_builder(4)
    look = replace(builder.look(1.0, ("plain",)), noise=(0.02, 0.0))
    solids = [
        builder.ball([0, 0, 5], 1.0, look=replace(look, pattern=pattern)) for pattern in PATTERNS
    ]
    scene = pack(scene_of(solids))
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, COUNT)).astype(np.float32)
    owner = np.repeat(np.arange(len(PATTERNS)), COUNT).astype(np.int32)
    shown = np.ones(len(owner), bool)
    x, y = np.tile(x, len(PATTERNS)), np.tile(y, len(PATTERNS))
    program = jax.jit(paint)
    colours = []
    for size in (1e-3, 50.0):
        pixel = np.full(len(owner), size, np.float32)
        channels = program(scene.looks, owner, shown, scene.tables, x, y, pixel)
        colours.append(np.stack(channels, -1).reshape(len(PATTERNS), COUNT, 3))
    return colours


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_finite_and_fade_where_a_pixel_covers_much(painted, pattern):
    near, far = (colours[list(PATTERNS).index(pattern)] for colours in painted)
    assert np.isfinite(near).all() and near.min() >= 0
    if pattern not in ("plain", "poster", "voronoi"):  # their cells keep their own colours
        assert far.std(0).max() <= near.std(0).max() + 0.05


def test_patterns_differ(painted):
    near = painted[0]
    for i in range(len(near)):
        for other in near[:i]:
            assert (np.abs(near[i] - other).max(-1) > 1e-3).mean() > 0.02
