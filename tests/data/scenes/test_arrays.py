"""Scenes as arrays."""

import jax
import numpy as np
import pytest
from helpers.small_scenes import make_builder, scene_of

from urgt_jax.data.scenes import SPLITS, sample_scene
from urgt_jax.data.scenes.arrays import SOLIDS, pack
from urgt_jax.data.scenes.rays import KINDS


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_of_a_split_have_arrays_of_the_same_shapes(split):
    shapes = set()
    for seed in range(20):
        arrays = pack(sample_scene(seed, split))
        shapes.add(str(jax.tree.map(lambda field: (field.shape, field.dtype), arrays)))
    assert len(shapes) == 1


def test_solids_beyond_the_usual_number_are_kept():
    ball = make_builder().ball([0, 0, 5], 1.0)
    solids = pack(scene_of([ball] * (SOLIDS + 1))).solids
    assert len(solids.kind) == 2 * SOLIDS
    assert (solids.kind[: SOLIDS + 1] == KINDS.index("ellipsoid")).all()
    np.testing.assert_array_equal(solids.half[SOLIDS], np.ones(3, np.float32))
