"""Colour jitter in training."""

import numpy as np

from urgt_jax.data.augmentation import jitter


def test_jitter_changes_all_patches_alike_and_repeats():
    image = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
    twice = np.concatenate([image, image])
    for seed in range(12):
        jittered = jitter(twice, np.random.default_rng(seed))
        assert jittered.dtype == np.uint8 and jittered.shape == twice.shape
        again = jitter(twice, np.random.default_rng(seed))
        assert (jittered == again).all() and (jittered != twice).any()
        assert np.abs(jittered[0].astype(int) - jittered[1]).mean() < 12  # but for noise
    assert jitter(image, np.random.default_rng(0), 0.0) is image
