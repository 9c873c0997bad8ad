"""Depth, normals, silhouettes and shadows by hand; tiles and threads leave no trace."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.small_scenes import TOWARDS_CAMERA, make_builder, plain_look, rays_of, scene_of

from urgt_jax.data.scenes import View, render, sample_scene
from urgt_jax.data.scenes.arrays import pack
from urgt_jax.data.scenes.families import hills
from urgt_jax.data.scenes.render import render_in_turn, render_together
from urgt_jax.data.scenes.shapes_heldout import HELDOUT
from urgt_jax.data.scenes.shapes_train import LARGE, SMALL, THIN, tumble
from urgt_jax.data.scenes.shapes_varied import BENT
from urgt_jax.data.scenes.tiles import make_tiles

SIZE = (61, 90)
TRAINED_SHAPES = dict.fromkeys((*SMALL, *LARGE, *THIN, *BENT, tumble))
SHAPES = [(shape, False) for shape in TRAINED_SHAPES]
SHAPES += [(shape, True) for shape in dict.fromkeys(HELDOUT)]


@pytest.mark.parametrize("normal", [[0, 0, -1], [0.3, -1, -0.2], [-2, 0.1, -0.7]])
def test_plane_has_the_depth_and_normals_of_its_equation(normal):
    point = np.array([0.2, 1.1, 4.0])
    normal = np.array(normal) / np.linalg.norm(normal)
    view = render(scene_of([make_builder().plane(point, normal, plain_look())]), *SIZE)
    with np.errstate(divide="ignore"):
        expected = (point @ normal) / (rays_of(view) @ normal)
    seen = (expected > 0.05) & (expected < 79.9)
    assert seen.mean() > 0.3
    np.testing.assert_allclose(view.depth[seen], expected[seen], rtol=1e-5)
    assert not view.depth[(expected < 0) | (expected > 80.1)].any()
    side = -np.sign(rays_of(view)[seen] @ normal)
    np.testing.assert_allclose(view.normal[seen], side[:, None] * normal, atol=1e-6)


def sphere_depth(rays: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Depth where rays from the camera enter a sphere, NaN where they miss it."""
    square = (rays**2).sum(-1)
    middle = rays @ centre / square
    left = radius**2 - ((rays * middle[..., None] - centre) ** 2).sum(-1)
    with np.errstate(invalid="ignore"):
        return middle - np.sqrt(left / square)


@pytest.mark.parametrize(
    "centre, radius", [([0.3, -0.2, 3.0], 0.7), ([-9.0, 4.0, 40.0], 8.0), ([0.1, 0, 0.4], 0.06)]
)
def test_sphere_has_the_depth_and_normals_of_its_equation_up_to_half_a_pixel(centre, radius):
    centre = np.array(centre)
    view = render(scene_of([make_builder().ball(centre, radius)]), *SIZE)
    rays = rays_of(view)
    expected = sphere_depth(rays, centre, radius)
    # Near the outline rounding is magnified, by as much as the surface is slanted.
    inside = sphere_depth(rays, centre, radius * 0.98) > 0
    assert inside.sum() > 150
    np.testing.assert_allclose(view.depth[inside], expected[inside], rtol=1e-5)
    points = rays * expected[..., None]
    normal = (points - centre) / radius
    np.testing.assert_allclose(view.normal[inside], normal[inside], atol=2e-4)
    # The outline is where the equation puts it, give or take half a pixel.
    shifts = [(x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]
    around = np.stack([sphere_depth(rays_of(view, shift), centre, radius) > 0 for shift in shifts])
    assert view.valid[around.all(0)].all() and not view.valid[~around.any(0)].any()


@pytest.mark.parametrize("shape, other", SHAPES, ids=[shape.__name__ for shape, _ in SHAPES])
def test_shapes_have_the_normals_of_their_depth(shape, other):
    solids = shape(make_builder(1, other), np.zeros(3), 1.5)
    kinds = {}
    for solid in solids:
        kinds.setdefault(solid.kind, solid)
    c, s = np.cos(0.6), np.sin(0.6)
    from_above = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    for solid in kinds.values():
        near = replace(solid, centre=np.array([0.01, 0.02, 6.0]), axes=solid.axes @ from_above.T)
        width = np.sort(solid.half)[1]
        check_normals(render(scene_of([near], view=2 * np.arctan(1.5 * width / 6)), 168, 168))


def test_bumpy_ground_has_the_normals_of_its_depth():
    [ground] = hills(make_builder(2, True)).surroundings
    check_normals(render(scene_of([ground]), 56, 56))


def check_normals(view: View) -> None:
    """Normals must be unit vectors and those of the surface through the points beside a pixel."""
    assert view.valid.mean() > 0.1
    points = rays_of(view) * np.where(view.valid, view.depth, np.nan)[..., None]
    right, left = points[1:-1, 2:], points[1:-1, :-2]
    below, above = points[2:, 1:-1], points[:-2, 1:-1]
    expected = np.cross(right - left, above - below)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    # Where there is no edge, three points are nearly on a line and at equal distances.
    middle = 2 * points[1:-1, 1:-1]
    bend = np.maximum(
        np.linalg.norm(right + left - middle, axis=-1),
        np.linalg.norm(below + above - middle, axis=-1),
    )
    smooth = bend < 0.1 * np.linalg.norm(right - left, axis=-1)
    assert smooth.sum() > 50
    normal = view.normal[1:-1, 1:-1][smooth]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
    cosine = (normal * expected[smooth]).sum(-1)
    assert np.median(cosine) > 0.999 and (cosine > 0.98).mean() > 0.95


def test_solids_are_seen_only_within_their_boxes():
    builder = make_builder()
    look = plain_look()
    axes = np.eye(3)
    solids = [
        builder.box([-1, 0, 4], [0.4, 0.6, 0.2], axes, look),
        builder.rod([0.4, 0, 4], [0.4, 0, 5], 0.3, look),
        builder.card([1.3, 0.2, 4], [0.3, 0.5], axes, look, oval=False),
        builder.card([1.3, -0.9, 4], [0.3, 0.2], axes, look, oval=True),
    ]
    view = render(scene_of(solids, view=0.9), 180, 240)
    points = rays_of(view)
    x, y = (points[..., i] * 3.8 for i in (0, 1))
    box = (abs(x + 1) < 0.4) & (abs(y) < 0.6)
    x, y = (points[..., i] * 4 for i in (0, 1))
    rod = (x - 0.4) ** 2 + y**2 < 0.3**2
    card = (abs(x - 1.3) < 0.3) & (abs(y - 0.2) < 0.5)
    oval = ((x - 1.3) / 0.3) ** 2 + ((y + 0.9) / 0.2) ** 2 < 1
    front = np.where(box, 3.8, np.where(rod | card | oval, 4.0, 0.0))
    np.testing.assert_allclose(view.depth[front > 0], front[front > 0], rtol=1e-5)
    # The sides of the box and of the rod are seen too, beside their fronts.
    away = (abs(x + 1) > 0.5) & ((x - 0.4) ** 2 + y**2 > 0.35**2) & ~card & ~oval
    assert not view.valid[away & (front == 0)].any()


def test_shadow_is_where_the_light_is_blocked():
    builder = make_builder()
    wall = builder.plane([0, 0, 5], TOWARDS_CAMERA, plain_look())
    ball = builder.ball([0.5, 0.2, 3], 0.5, look=plain_look())
    light = np.array([0.6, 0, -0.8])
    scene = scene_of([wall, ball], lights=light[None], shadow=10.0)
    view = render(scene, 90, 120)
    points = rays_of(view) * view.depth[..., None]
    on_wall = np.abs(points[..., 2] - 5) < 1e-3
    towards = points - ball.centre
    distance = np.linalg.norm(towards - (towards @ light)[..., None] * light, axis=-1)
    lit = view.image[..., 0] > 0
    assert not lit[on_wall & (distance < 0.49)].any() and lit[on_wall & (distance > 0.51)].all()
    assert (on_wall & (distance < 0.49)).sum() > 50
    expected = round(0.5 * 0.8 * 255)  # colour times the cosine to the light
    assert np.abs(view.image[on_wall & lit].astype(int) - expected).max() <= 1
    short = render(replace(scene, shadow=1.0), 90, 120)
    none = render(replace(scene, solids=(wall, replace(ball, casts_shadow=False))), 90, 120)
    for other in (short, none):
        assert (other.image[on_wall] > 0).all()


def test_haze_and_distance_fade_into_the_sky():
    builder = make_builder()
    wall = builder.plane([0, 0, 10], TOWARDS_CAMERA, plain_look())
    sky = np.array([[0.2, 0.4, 0.6], [0.2, 0.4, 0.6]])
    view = render(scene_of([wall], sky=sky, haze=0.1), 20, 20)
    clear = np.exp(-1)
    expected = 255 * (0.5 * clear + sky[0] * (1 - clear))
    assert np.abs(view.image.astype(int) - expected.round()).max() <= 1
    far = replace(wall, centre=np.array([0, 0, 81.0]))
    view = render(scene_of([far], sky=sky), 20, 20)
    assert not view.valid.any() and not view.depth.any() and not view.normal.any()


@pytest.mark.parametrize("split, seed", [("train", 5), ("varied", 3), ("other", 1), ("other", 6)])
def test_every_third_pixel_of_a_large_image_is_the_small_image(split, seed):
    """The tiles of the two are at other places, so that none may lack a solid."""
    scene = replace(sample_scene(seed, split), camera=None)
    small = render(scene, *SIZE)
    large = render(scene, 3 * SIZE[0], 3 * SIZE[1])
    depth = large.depth[1::3, 1::3]
    same = np.abs(depth - small.depth) <= 1e-4 * small.depth
    assert same.mean() > 0.998  # rounding moves an edge by a pixel here and there
    normal = large.normal[1::3, 1::3]
    assert (np.abs(normal - small.normal).max(-1)[same] < 1e-2).mean() > 0.998


@pytest.mark.parametrize("split, seed", [("train", 5), ("varied", 3), ("other", 6)])
def test_lists_of_tiles_lack_no_solid(split, seed):
    scene = sample_scene(seed, split)
    intrinsics = np.array([80.0, 80.0, 56.0, 56.0])
    arrays, tiles = pack(scene), make_tiles(scene, intrinsics, 112, 112)
    everywhere = replace(scene, shadow=scene.shadow and 1e6)
    all_solids = make_tiles(everywhere, intrinsics * 1e-6, 56, 56)
    assert all_solids.starts[0, 0, -1] >= tiles.starts[:, 0, -1].max()
    repeated = jax.tree.map(lambda field: np.repeat(field, 4, 0), all_solids)
    complete = tiles._replace(solids=repeated.solids, starts=repeated.starts)
    for own, expected in zip(
        render_in_turn(arrays, padded(tiles), 4),
        render_in_turn(arrays, padded(complete), 4),
        strict=True,
    ):
        np.testing.assert_array_equal(own, expected)


def padded(tiles):
    """Four tiles and 28 copies of the first: as many as one call takes."""
    numbers = np.array([0, 1, 2, 3] + 28 * [0])
    return jax.tree.map(lambda field: field[numbers], tiles)


def test_tiles_drawn_together_are_those_drawn_in_turn():
    scene = sample_scene(3, "varied")
    arrays = pack(scene)
    tiles = padded(make_tiles(scene, np.array([80.0, 80.0, 56.0, 56.0]), 112, 112))
    in_turn = render_in_turn(arrays, tiles, 4)
    together = render_together(arrays, jax.tree.map(lambda field: field[:4], tiles))
    for one, other in zip(in_turn, together, strict=True):
        different = np.abs(one[:4] - other) > 1e-4 * np.maximum(np.abs(other), 1)
        assert different.mean() < 2e-3  # rounding moves an edge by a pixel here and there


def test_images_do_not_depend_on_the_number_of_threads():
    scene = sample_scene(2, "train")
    one, two = (render(scene, 400, 500, workers=workers) for workers in (1, 2))
    for field in ("image", "depth", "normal"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


@pytest.mark.parametrize("split, seed", [("train", 2), ("varied", 7), ("other", 2), ("other", 6)])
def test_render_gives_unit_normals_towards_the_camera(split, seed):
    view = render(sample_scene(seed, split), *SIZE)
    length = np.linalg.norm(view.normal, axis=-1)
    np.testing.assert_allclose(length[view.valid], 1, atol=1e-5)
    cosine = (rays_of(view) * view.normal).sum(-1)
    assert (cosine[view.valid] < 1e-6).all()
