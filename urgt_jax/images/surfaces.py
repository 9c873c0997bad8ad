"""Depth as a surface in space: points, triangles, and the files that other programs open."""

import json
import math
import struct
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float, Shaped, UInt

from urgt_jax.files import atomic_write
from urgt_jax.images.colour import RGB
from urgt_jax.images.files import encode_jpeg
from urgt_jax.images.rows import LazyMap

JUMP = 0.05  # relative difference of depth between neighbours at which a surface is cut
LARGEST_TEXTURE = 4096  # pixels of a side, which every program can show
FLOAT, UINT32 = 5126, 5125  # component types of glTF
VERTICES, INDICES = 34962, 34963  # targets of glTF's buffer views
TO_GLTF = np.array([1, -1, -1], np.float32)  # x right, y up, z backward


class Surface(NamedTuple):
    """The pixels of an image in space: x right, y down, z forward."""

    points: Float[np.ndarray, "H W 3"]
    normals: Float[np.ndarray, "H W 3"]
    colours: RGB


def make_surface(
    depth: Float[np.ndarray, "H W"],
    normals: Float[np.ndarray, "H W 3"] | LazyMap,
    image: RGB,
    focal: float,
    most: int,
) -> Surface:
    """The pixels of an image as points, given the focal length in pixels.

    Only every n-th row and column is taken where there are more than `most` pixels. Nothing is
    averaged, so that edges stay sharp.
    """
    height, width = depth.shape
    step = math.ceil(math.sqrt(height * width / most))
    z = np.asarray(depth[::step, ::step], np.float32)
    x = (np.arange(0, width, step, dtype=np.float32) + 0.5 - width / 2) / np.float32(focal)
    y = (np.arange(0, height, step, dtype=np.float32) + 0.5 - height / 2) / np.float32(focal)
    with np.errstate(invalid="ignore"):  # 0 times infinity
        points = np.stack([x[None] * z, y[:, None] * z, z], -1)
    return Surface(points, np.asarray(normals[::step, ::step]), image[::step, ::step])


def is_at_jump(depth: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose depth differs from that of a neighbour by more than JUMP, or is infinite."""
    at_jump = ~np.isfinite(depth)
    down = _differ(depth[1:], depth[:-1])
    at_jump[1:] |= down
    at_jump[:-1] |= down
    right = _differ(depth[:, 1:], depth[:, :-1])
    at_jump[:, 1:] |= right
    at_jump[:, :-1] |= right
    return at_jump


def _differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.abs(a - b) > JUMP * np.minimum(a, b)


def triangles(depth: Float[np.ndarray, "H W"]) -> UInt[np.ndarray, "F 3"]:
    """Indices of the pixels of each triangle between neighbours.

    There is none across a jump, or with an infinitely far corner. They run counterclockwise as the
    camera sees them.
    """
    height, width = depth.shape
    numbers = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    top_left, top_right = numbers[:-1, :-1], numbers[:-1, 1:]
    bottom_left, bottom_right = numbers[1:, :-1], numbers[1:, 1:]
    upper = np.stack([top_left, bottom_left, top_right], -1).reshape(-1, 3)
    lower = np.stack([top_right, bottom_left, bottom_right], -1).reshape(-1, 3)
    faces = np.concatenate([upper, lower])
    corners = depth.reshape(-1)[faces]
    nearest = corners.min(1)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return faces[corners.max(1) - nearest <= JUMP * nearest]


def write_ply(path: Path, surface: Surface, axes: Float[np.ndarray, "3"]) -> None:
    """Write the points that are not at a jump as a binary PLY file with normals and colours.

    `axes` are factors for x, y and z.
    """
    kept = ~is_at_jump(surface.points[..., 2])
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    fields += [(name, "u1") for name in ("red", "green", "blue")]
    columns = [
        *(surface.points[kept] * axes).T,
        *(surface.normals[kept] * axes).T,
        *surface.colours[kept].T,
    ]
    vertices = np.empty(int(kept.sum()), fields)
    for (name, _), column in zip(fields, columns, strict=True):
        vertices[name] = column
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    for name, kind in fields:
        lines.append(f"property {'uchar' if kind == 'u1' else 'float'} {name}")
    header = "\n".join([*lines, "end_header", ""])
    with atomic_write(path) as file:
        file.write(header.encode())
        file.write(vertices.tobytes())


def write_glb(path: Path, surface: Surface, image: RGB) -> None:
    """Write a mesh with the image as its texture as a glTF file: x right, y up, z backward."""
    height, width = surface.points.shape[:2]
    faces = triangles(surface.points[..., 2])
    used, faces = np.unique(faces, return_inverse=True)
    positions = (surface.points.reshape(-1, 3)[used] * TO_GLTF).astype(np.float32)
    normals = (surface.normals.reshape(-1, 3)[used] * TO_GLTF).astype(np.float32)
    rows, columns = np.divmod(used, width)
    texture = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1).astype(np.float32)
    parts = [
        (positions, VERTICES),
        (normals, VERTICES),
        (texture, VERTICES),
        (faces.astype(np.uint32).reshape(-1), INDICES),
        (encode_jpeg(image, LARGEST_TEXTURE), None),
    ]
    views = []
    data = bytearray()
    for part, target in parts:
        content = part.tobytes() if isinstance(part, np.ndarray) else part
        view = {"buffer": 0, "byteOffset": len(data), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        views.append(view)
        data += content + bytes(-len(content) % 4)
    bounds = {"min": [0.0] * 3, "max": [0.0] * 3}
    if len(positions):
        bounds = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    accessors = [
        _accessor(0, positions, "VEC3") | bounds,
        _accessor(1, normals, "VEC3"),
        _accessor(2, texture, "VEC2"),
        _accessor(3, faces.reshape(-1), "SCALAR", UINT32),
    ]
    contents = _gltf(views, accessors, len(data))
    text = json.dumps(contents, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(data)
    with atomic_write(path) as file:
        file.write(struct.pack("<4sII", b"glTF", 2, length))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(data), b"BIN\0"))
        file.write(data)


def _accessor(
    view: int, values: Shaped[np.ndarray, "..."], kind: str, component: int = FLOAT
) -> dict:
    return {"bufferView": view, "componentType": component, "count": len(values), "type": kind}


def _gltf(views: list[dict], accessors: list[dict], length: int) -> dict:
    """The JSON of a glTF file with one mesh, which lamps do not change: the image has its own."""
    primitive = {
        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
        "indices": 3,
        "material": 0,
    }
    material = {
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": 0},
            "metallicFactor": 0,
            "roughnessFactor": 1,
        },
        "doubleSided": True,
        "extensions": {"KHR_materials_unlit": {}},
    }
    return {
        "asset": {"version": "2.0", "generator": "urgt_jax"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33071, "wrapT": 33071}],  # the edge is repeated
        "images": [{"bufferView": 4, "mimeType": "image/jpeg"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": length}],
    }
