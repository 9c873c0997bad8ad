"""Solids of every shape: intersection with rays, normals, shadows."""

import numpy as np
import pytest

from urgt_jax.data.scenes.builder import Builder
from urgt_jax.data.scenes.shapes_heldout import HELDOUT
from urgt_jax.data.scenes.shapes_train import LARGE, SMALL, THIN, tumble
from urgt_jax.data.scenes.shapes_varied import BENT
from urgt_jax.data.scenes.solids import Solid, local, meet, meet_rays, normals

FOOT = np.array([0.3, 0.4, 6.0])
TRAINED_SHAPES = dict.fromkeys((*SMALL, *LARGE, *THIN, *BENT, tumble))
SHAPES = [(shape, False) for shape in TRAINED_SHAPES]
SHAPES += [(shape, True) for shape in dict.fromkeys(HELDOUT)]
every_shape = pytest.mark.parametrize(
    "shape, other", SHAPES, ids=[shape.__name__ for shape, _ in SHAPES]
)


def make_builder(seed: int, other: bool = False) -> Builder:
    return Builder(np.random.default_rng(seed), other, np.full((2, 3), 0.5))


@every_shape
def test_rays_meet_a_solid_on_its_surface_with_its_normals(shape, other):
    rng = np.random.default_rng(3)
    for solid in shape(make_builder(1, other), FOOT, 1.5)[:6]:
        targets = solid.half * rng.uniform(-0.9, 0.9, (300, 3))
        rays = (solid.centre + targets @ solid.axes).astype(np.float32)
        check_surface(solid, rays / rays[:, 2:])


def check_surface(solid: Solid, rays: np.ndarray) -> None:
    """Rays must hit the solid within its box, on a surface with the normals that it reports."""
    t = meet_rays(solid, rays)
    hit = t > 0
    assert hit.mean() > 0.2
    points = local(solid, rays * t[:, None])[hit]
    assert (np.abs(points) <= solid.half * 1.01 + 2e-3).all()
    normal = normals(solid, points)
    # Rays to both sides of a ray meet a smooth surface along its tangent plane.
    smallest = min(solid.half[:2]) if solid.kind == "card" else min(solid.half)
    for axis in np.eye(3, dtype=np.float32)[:2]:
        shift = axis * np.float32(min(3e-4, smallest / 60))
        rays_before, rays_after = rays[hit] - shift, rays[hit] + shift
        t_before, t_after = meet_rays(solid, rays_before), meet_rays(solid, rays_after)
        before = local(solid, rays_before * t_before[:, None])
        after = local(solid, rays_after * t_after[:, None])
        step = after - before
        length = np.linalg.norm(step, axis=-1)
        smooth = (t_before > 0) & (t_after > 0) & (length < 1000 * shift.max())
        off = np.abs((step * normal).sum(-1))[smooth] / length[smooth]
        assert smooth.any() and np.median(off) < 0.03 and (off < 0.1).mean() > 0.8


@every_shape
def test_shadow_rays_meet_a_solid_only_in_front_of_them(shape, other):
    solid = shape(make_builder(2, other), FOOT, 1.5)[0]
    direction = np.array([0.2, 0.3, 1.0], np.float32)
    origins = (solid.centre - 5 * direction * np.array([[1.0], [-1.0]])).astype(np.float32)
    t = meet(solid, local(solid, origins), solid.axes.astype(np.float32) @ direction)
    if solid.kind not in ("torus", "card"):  # a torus has a hole, a card may be seen edge-on
        assert t[0] > 0
    assert t[1] < 0


def test_cylinders_have_ends():
    rod = make_builder(0).rod([0, 0, 3], [0, 0, 5], 0.5)
    rays = np.array([[0.0, 0, 1], [0.1, 0, 1], [0.3, 0, 1]], np.float32)
    np.testing.assert_allclose(meet_rays(rod, rays), [3, 3, -1], rtol=1e-5)
    end = np.array([[0.1, 0, 1.0]], np.float32)
    np.testing.assert_allclose(np.abs(normals(rod, end)[0, 2]), 1)
