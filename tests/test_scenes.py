"""Scenes: functions of their seed, at any resolution and in any window."""

import numpy as np
import pytest

from urgt_jax.data.scenes import render, sample_scene


def test_a_window_is_a_crop_of_the_picture():
    scene = sample_scene(5)
    whole, part = render(scene, 60, 90, workers=2), render(scene, 60, 90, (11, 7, 31, 50))
    same = np.abs(part.depth - whole.depth[11:42, 7:57]) < 1e-3 * whole.depth[11:42, 7:57] + 1e-6
    assert same.mean() > 0.995  # rounding moves an edge by a pixel here and there


def test_splits_and_seeds_differ_and_repeat():
    a, b, c = (render(sample_scene(*k), 37, 53) for k in ((1, "train"), (1, "test"), (1, "train")))
    assert (a.image == c.image).all() and (a.image != b.image).any()
    with pytest.raises(ValueError, match="unknown split"):
        sample_scene(0, "best")


def test_normals_are_unit_and_face_the_camera():
    view = render(sample_scene(2), 60, 90)
    length = np.linalg.norm(view.normal, axis=-1)
    np.testing.assert_allclose(length[view.valid], 1, atol=1e-5)
    fx, fy, cx, cy = view.intrinsics
    v, u = np.mgrid[:60, :90] + 0.5
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    assert ((ray * view.normal).sum(-1)[view.valid] < 1e-6).all()
