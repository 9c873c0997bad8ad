"""Textures."""

from dataclasses import replace

import numpy as np
import pytest

from urgt_jax.data.scenes.builder import Builder
from urgt_jax.data.scenes.textures import PATTERNS, paint, tables


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_finite_and_fade_where_a_pixel_covers_much(pattern):
    builder = Builder(np.random.default_rng(4), False, np.full((2, 3), 0.5))
    look = replace(builder.look(1.0, ("plain",)), pattern=pattern, noise=(0.02, 0.0))
    positions = np.random.default_rng(0).uniform(-3, 3, (500, 2)).astype(np.float32)
    near = paint(look, tables(0), positions, np.full(500, 1e-3, np.float32))
    far = paint(look, tables(0), positions, np.full(500, 50.0, np.float32))
    assert np.isfinite(near).all() and near.min() >= 0
    if pattern not in ("plain", "poster", "voronoi"):  # their cells keep their own colours
        assert far.std(0).max() <= near.std(0).max() + 0.05
