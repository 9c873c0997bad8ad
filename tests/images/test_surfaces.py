"""Meshes and point clouds, as trimesh and pygltflib open them."""

import numpy as np
import pytest
from etils.epath import Path

from urgt_jax.images.surfaces import is_at_jump, make_surface, triangles, write_glb, write_ply

FOCAL = 20.0
SIZE = (24, 32)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
NORMALS = np.broadcast_to(np.float32([0, 0, -1]), (*SIZE, 3))
# A wall 4 metres away, and in front of its right half another one.
DEPTH = np.full(SIZE, 4, np.float32)
DEPTH[:, 16:] = 2


def surface(most: int = 10_000):
    return make_surface(DEPTH, NORMALS, IMAGE, FOCAL, most)


def test_make_surface_projects_back_to_the_pixels():
    points = surface().points
    columns = points[..., 0] / points[..., 2] * FOCAL + SIZE[1] / 2
    rows = points[..., 1] / points[..., 2] * FOCAL + SIZE[0] / 2
    np.testing.assert_allclose(columns, np.broadcast_to(np.arange(32) + 0.5, SIZE), atol=1e-5)
    np.testing.assert_allclose(rows, np.broadcast_to(np.arange(24)[:, None] + 0.5, SIZE), atol=1e-5)


def test_make_surface_takes_some_rows_and_columns_of_a_large_image():
    small = surface(most=200)
    assert small.points.shape == (12, 16, 3)
    np.testing.assert_array_equal(small.points, surface().points[::2, ::2])
    np.testing.assert_array_equal(small.colours, IMAGE[::2, ::2])


def test_triangles_end_where_depth_jumps():
    faces = triangles(DEPTH)
    assert len(faces) == 2 * 23 * (15 + 15)
    corners = DEPTH.reshape(-1)[faces]
    assert (corners.min(1) == corners.max(1)).all()
    assert is_at_jump(DEPTH).sum() == 2 * 24


def test_glb_is_a_textured_mesh(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    write_glb(tmp_path / "x.glb", surface(), IMAGE)
    mesh = trimesh.load(str(tmp_path / "x.glb"), force="mesh", process=False)
    assert len(mesh.vertices) == 24 * 32 and len(mesh.faces) == 2 * 23 * 30
    # y is up and z backward: what the camera sees has negative z, and faces it.
    np.testing.assert_allclose(np.unique(mesh.vertices[:, 2]), [-4, -2])
    np.testing.assert_allclose(mesh.face_normals, np.tile([0, 0, 1.0], (len(mesh.faces), 1)))
    assert mesh.vertices[0, 1] > 0
    assert mesh.visual.material.baseColorTexture.size == (32, 24)
    # trimesh's v runs upwards.
    np.testing.assert_allclose(mesh.visual.uv[0], [0.5 / 32, 1 - 0.5 / 24], atol=1e-6)


def test_glb_is_valid_for_another_reader(tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    write_glb(tmp_path / "x.glb", surface(), IMAGE)
    file = pygltflib.GLTF2().load(str(tmp_path / "x.glb"))
    position = file.accessors[file.meshes[0].primitives[0].attributes.POSITION]
    np.testing.assert_allclose([position.min[2], position.max[2]], [-4, -2])
    assert all(view.byteOffset % 4 == 0 for view in file.bufferViews)
    assert len(file.binary_blob()) == file.buffers[0].byteLength


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, -1, -1)])
def test_ply_is_a_coloured_cloud_without_flying_points(tmp_path, axes):
    trimesh = pytest.importorskip("trimesh")
    write_ply(tmp_path / "x.ply", surface(), np.float32(axes))
    cloud = trimesh.load(str(tmp_path / "x.ply"))
    kept = ~is_at_jump(DEPTH)
    np.testing.assert_allclose(cloud.vertices, surface().points[kept] * axes, rtol=1e-6)
    np.testing.assert_array_equal(cloud.colors[:, :3], IMAGE[kept])


def test_a_mesh_of_jumps_alone_is_still_a_file(tmp_path: Path):
    depth = np.float32([[1, 2], [2, 1]])
    empty = make_surface(depth, NORMALS[:2, :2], IMAGE[:2, :2], FOCAL, 100)
    write_glb(tmp_path / "x.glb", empty, IMAGE)
    write_ply(tmp_path / "x.ply", empty, np.ones(3, np.float32))
    assert b"element vertex 0\n" in (tmp_path / "x.ply").read_bytes()


@pytest.mark.parametrize("step,is_cut", [(1.04, False), (1.06, True)])
def test_surface_is_cut_where_depth_jumps_by_more_than_5_percent(step, is_cut):
    depth = np.full((3, 4), 2, np.float32)
    depth[:, 2:] *= np.float32(step)
    assert is_at_jump(depth).any() == is_cut
    assert len(triangles(depth)) == (8 if is_cut else 12)
