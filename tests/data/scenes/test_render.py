"""Rendering: windows and normals."""

from dataclasses import replace

import numpy as np
import pytest

from urgt_jax.data.scenes import render, sample_scene


@pytest.mark.parametrize("split, seed", [("train", 5), ("train", 6), ("other", 1), ("other", 3)])
def test_render_draws_a_window_as_a_crop_of_the_image_without_camera(split, seed):
    scene = replace(sample_scene(seed, split), camera=None)
    whole = render(scene, 60, 90, workers=2)
    part = render(scene, 60, 90, (11, 7, 31, 50))
    crop = (slice(11, 42), slice(7, 57))
    same = np.abs(part.depth - whole.depth[crop]) < 1e-3 * whole.depth[crop] + 1e-6
    assert same.mean() > 0.995  # rounding moves an edge by a pixel here and there
    similar = np.abs(part.image.astype(int) - whole.image[crop]).max(-1) <= 2
    assert similar.mean() > 0.98
    np.testing.assert_allclose(part.normal[same], whole.normal[crop][same], atol=0.2)


@pytest.mark.parametrize("split, seed", [("train", 2), ("varied", 7), ("other", 2), ("other", 6)])
def test_render_gives_unit_normals_towards_the_camera(split, seed):
    view = render(sample_scene(seed, split), 60, 90)
    length = np.linalg.norm(view.normal, axis=-1)
    np.testing.assert_allclose(length[view.valid], 1, atol=1e-5)
    fx, fy, cx, cy = view.intrinsics
    y, x = np.mgrid[:60, :90] + 0.5
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1)
    cosine = (rays * view.normal).sum(-1)
    assert (cosine[view.valid] < 1e-6).all()
