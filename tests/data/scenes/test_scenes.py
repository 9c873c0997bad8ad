"""Scenes and their priors: functions of their seed, at any resolution and in any window."""

from dataclasses import replace

import numpy as np
import pytest

from urgt_jax.data.scenes import SPLITS, TRAINED, render, sample_scene
from urgt_jax.data.scenes.builder import OTHER, Builder
from urgt_jax.data.scenes.shapes_heldout import STRANGE
from urgt_jax.data.scenes.shapes_train import LARGE, SMALL, THIN, tumble
from urgt_jax.data.scenes.shapes_varied import BENT
from urgt_jax.data.scenes.solids import Solid, local, meet, meet_rays, normals
from urgt_jax.data.scenes.textures import PATTERNS, paint, tables

FOOT = np.array([0.3, 0.4, 6.0])


def _kit(seed: int, other: bool = False) -> Builder:
    return Builder(np.random.default_rng(seed), other, np.full((2, 3), 0.5))


def _rays(view, height: int, width: int) -> np.ndarray:
    fx, fy, cx, cy = view.intrinsics
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)


@pytest.mark.parametrize("split,seed", [("train", 5), ("train", 6), ("other", 1), ("other", 3)])
def test_a_window_is_a_crop_of_the_picture_before_the_camera(split, seed):
    scene = replace(sample_scene(seed, split), camera=None)
    whole, part = render(scene, 60, 90, workers=2), render(scene, 60, 90, (11, 7, 31, 50))
    crop = (slice(11, 42), slice(7, 57))
    same = np.abs(part.depth - whole.depth[crop]) < 1e-3 * whole.depth[crop] + 1e-6
    assert same.mean() > 0.995  # rounding moves an edge by a pixel here and there
    alike = np.abs(part.image.astype(int) - whole.image[crop]).max(-1) <= 2
    assert alike.mean() > 0.98
    np.testing.assert_allclose(part.normal[same], whole.normal[crop][same], atol=0.2)


@pytest.mark.parametrize("split", SPLITS)
def test_seeds_repeat_and_differ(split):
    a, b, c = (render(sample_scene(seed, split), 37, 53) for seed in (1, 2, 1))
    assert (a.image == c.image).all() and (a.depth == c.depth).all()
    assert (a.depth != b.depth).mean() > 0.5


def test_splits_differ_and_unknown_ones_are_refused():
    pictures = [render(sample_scene(1, split), 37, 53).depth for split in SPLITS]
    for i, one in enumerate(pictures):
        assert all((one != two).mean() > 0.5 for two in pictures[:i])
    with pytest.raises(ValueError, match="unknown split"):
        sample_scene(0, "best")


@pytest.mark.parametrize("split", TRAINED)
def test_training_has_no_shape_and_no_texture_of_the_split_other(split):
    held = {"cone", "torus", "super", "hull", "bumps"}
    seen = [solid for seed in range(30) for solid in sample_scene(seed, split).solids]
    kept = [solid for seed in range(30) for solid in sample_scene(seed, "other").solids]
    assert not held & {solid.kind for solid in seen} and held <= {solid.kind for solid in kept}
    assert not (set(OTHER) - {"plain"}) & {solid.look.pattern for solid in seen}
    assert set(OTHER) == {solid.look.pattern for solid in kept}


@pytest.mark.parametrize("split,seed", [("train", 2), ("varied", 7), ("other", 2), ("other", 6)])
def test_normals_are_unit_and_face_the_camera(split, seed):
    view = render(sample_scene(seed, split), 60, 90)
    length = np.linalg.norm(view.normal, axis=-1)
    np.testing.assert_allclose(length[view.valid], 1, atol=1e-5)
    assert ((_rays(view, 60, 90) * view.normal).sum(-1)[view.valid] < 1e-6).all()


def test_most_of_a_picture_is_something_and_pictures_are_neither_black_nor_white():
    for seed in range(6):
        for split in (*TRAINED, "other"):
            view = render(sample_scene(seed, split), 40, 60)
            assert view.valid.mean() > 0.3
            assert 20 < view.image.mean() < 230 and view.image.std() > 4


MAKERS = [(maker, False) for maker in dict.fromkeys((*SMALL, *LARGE, *THIN, *BENT, tumble))]
MAKERS += [(maker, True) for maker in dict.fromkeys(STRANGE)]


@pytest.mark.parametrize("maker,other", MAKERS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_solid_is_met_where_it_is_and_its_normals_are_those_of_its_surface(maker, other):
    rng = np.random.default_rng(3)
    for solid in maker(_kit(1, other), FOOT, 1.5)[:6]:
        reach = solid.half * rng.uniform(-0.9, 0.9, (300, 3))
        rays = (solid.centre + reach @ solid.axes).astype(np.float32)
        rays /= rays[:, 2:]
        _check_surface(solid, rays)


def _check_surface(solid: Solid, rays: np.ndarray) -> None:
    t = meet_rays(solid, rays)
    hit = t > 0
    assert hit.mean() > 0.2
    points = local(solid, rays * t[:, None])[hit]
    assert (np.abs(points) <= solid.half * 1.01 + 2e-3).all()
    found = normals(solid, points)
    # Rays to both sides of one meet a smooth surface along its tangent plane.
    small = min(solid.half[: 2 if solid.kind == "card" else 3])
    for shift in np.eye(3, dtype=np.float32)[:2] * np.float32(min(3e-4, small / 60)):
        ways = rays[hit] - shift, rays[hit] + shift
        far = [meet_rays(solid, way) for way in ways]
        before, after = (local(solid, w * t[:, None]) for w, t in zip(ways, far, strict=True))
        step, length = after - before, np.linalg.norm(after - before, axis=-1)
        smooth = (far[0] > 0) & (far[1] > 0) & (length < 1000 * shift.max())
        off = np.abs((step * found).sum(-1))[smooth] / length[smooth]
        assert smooth.any() and np.median(off) < 0.03 and (off < 0.1).mean() > 0.8


@pytest.mark.parametrize("maker,other", MAKERS, ids=lambda x: getattr(x, "__name__", ""))
def test_shadows_fall_behind_solids_and_not_before_them(maker, other):
    solid = maker(_kit(2, other), FOOT, 1.5)[0]
    way = np.array([0.2, 0.3, 1.0], np.float32)
    start = (solid.centre - 5 * way * np.array([[1.0], [-1.0]])).astype(np.float32)
    t = meet(solid, local(solid, start), solid.axes.astype(np.float32) @ way)
    inside = solid.kind not in ("torus", "card")  # whose middle is a hole, or thin
    assert (t[0] > 0) == inside or not inside
    assert t[1] < 0


def test_cylinders_have_ends():
    rod = _kit(0).rod([0, 0, 3], [0, 0, 5], 0.5)
    t = meet_rays(rod, np.array([[0.0, 0, 1], [0.1, 0, 1], [0.3, 0, 1]], np.float32))
    np.testing.assert_allclose(t, [3, 3, -1], rtol=1e-5)
    np.testing.assert_allclose(np.abs(normals(rod, np.array([[0.1, 0, 1.0]], np.float32))[0, 2]), 1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_textures_are_finite_and_fade_where_a_pixel_covers_much(pattern):
    look = replace(_kit(4).look(1.0, ("plain",)), pattern=pattern, noise=(0.02, 0.0))
    place = np.random.default_rng(0).uniform(-3, 3, (500, 2)).astype(np.float32)
    near = paint(look, tables(0), place, np.full(500, 1e-3, np.float32))
    far = paint(look, tables(0), place, np.full(500, 50.0, np.float32))
    assert np.isfinite(near).all() and near.min() >= 0
    if pattern not in ("plain", "poster", "voronoi"):  # cells keep their own colours
        assert far.std(0).max() <= near.std(0).max() + 0.05
