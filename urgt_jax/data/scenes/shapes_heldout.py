"""Shapes of the split `other`, which training never sees."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder, along
from urgt_jax.data.scenes.solids import Solid


def _hull(builder: Builder, foot, axes, faces, half) -> Solid:
    """A convex body in a box that stands on a point; faces are in units of the half sizes."""
    half = np.array(half, float)
    around = np.concatenate([np.eye(3), -np.eye(3)])
    faces_of_box = np.concatenate([around, np.ones((6, 1))], 1)
    faces = np.concatenate([np.array(faces, float), faces_of_box])
    faces[:, :3] /= half
    faces /= np.linalg.norm(faces[:, :3], axis=-1, keepdims=True)
    return Solid("hull", foot + UP * half[1], axes, half, builder.look(half.max()), faces)


def cone(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cone on its base."""
    radius = builder.rng.uniform(0.2, 0.7)
    height = builder.rng.uniform(0.6, 1.2)
    half = size / 2 * np.array([radius, radius, height])
    return [Solid("cone", foot + UP * half[2], along(-UP), half, builder.look(size))]


def ring(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A torus, lying, upright or leaning."""
    tube = builder.rng.uniform(0.1, 0.4)
    outer = size * builder.rng.uniform(0.3, 0.6)
    thick = outer * tube / (1 + tube)
    half = np.array([outer, outer, thick])
    if builder.chance(0.6):  # it stands
        axes = along(builder.upright_axes()[0] + UP * builder.rng.normal(0, 0.2))
        centre = foot + UP * outer
    else:
        axes = along(UP)
        centre = foot + UP * thick
    return [Solid("torus", centre, axes, half, builder.look(size), np.array([tube]))]


def pebble(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A superellipsoid, from a pillow to a rounded box."""
    half = size / 2 * builder.rng.uniform(0.4, 1, 3)
    axes = builder.upright_axes()[[0, 2, 1]]
    exponents = builder.rng.uniform(1.2, 5, 2)
    return [Solid("super", foot + UP * half[2], axes, half, builder.look(size), exponents)]


def gable(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A house: walls and a pitched roof."""
    half = size / 2 * builder.rng.uniform(0.5, 1, 3)
    steep = builder.rng.uniform(0.5, 1)
    faces = [[steep, 1, 0, 1 + steep * 0.1], [-steep, 1, 0, 1 + steep * 0.1]]
    return [_hull(builder, foot, builder.upright_axes(), faces, half)]


def pyramid(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A pyramid, whole or cut off."""
    half = size / 2 * builder.rng.uniform(0.5, 1.1, 3)
    top = builder.rng.uniform(0.5, 0.8)
    faces = [[x, 1 - top, z, top] for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return [_hull(builder, foot, builder.upright_axes(), faces, half)]


def prism(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An upright prism of five to eight sides."""
    count = int(builder.rng.integers(5, 9))
    half = size / 2 * np.array([0.5, builder.rng.uniform(0.5, 1.6), 0.5])
    angles = np.arange(count) * 2 * np.pi / count
    faces = [[np.cos(angle), 0, np.sin(angle), 0.9] for angle in angles]
    return [_hull(builder, foot, builder.upright_axes(), faces, half)]


def angle(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An L-shaped block, upright or lying."""
    axes = builder.upright_axes()
    look = builder.look(size)
    thick = size * builder.rng.uniform(0.06, 0.2)
    long = size / 2
    deep = size * builder.rng.uniform(0.1, 0.4)
    post = foot + UP * long + axes[0] * (thick - long)
    return [
        builder.box(foot + UP * thick, [long, thick, deep], axes, look),
        builder.box(post, [thick, long, deep], axes, look),
    ]


def stairs(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Steps that rise along one side."""
    axes = builder.upright_axes()
    look = builder.look(size)
    count = int(builder.rng.integers(4, 9))
    run = size / count
    rise = size * builder.rng.uniform(0.4, 0.8) / count
    wide = size * 0.4
    solids = []
    for i in range(count):
        half = [wide, rise * (i + 1) / 2, run / 2]
        solids.append(builder.box(foot + axes[2] * run * i + UP * half[1], half, axes, look))
    return solids


def spokes(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Thin rods from one point, like those of an umbrella."""
    middle = foot + UP * size * 0.6
    radius = size * builder.log_uniform(0.004, 0.015)
    look = builder.look(size)
    directions = builder.rng.normal(size=(builder.rng.integers(5, 12), 3))
    directions *= size * 0.6 / np.linalg.norm(directions, axis=-1, keepdims=True)
    return [builder.rod(middle, middle + direction, radius, look) for direction in directions]


HELDOUT = (cone, ring, ring, pebble, pebble, gable, pyramid, prism, angle, stairs, spokes)
