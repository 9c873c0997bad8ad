"""Things of the split `other`, whose shapes training never sees."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder, along
from urgt_jax.data.scenes.solids import Solid


def _hull(kit: Builder, foot, axes, faces, half) -> Solid:
    """A convex body within a box that stands on a point; faces are told in half sizes."""
    faces, half = np.array(faces, float), np.array(half, float)
    around = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.concatenate([faces, np.concatenate([around, np.ones((6, 1))], 1)])
    faces[:, :3] /= half
    faces /= np.linalg.norm(faces[:, :3], axis=-1, keepdims=True)
    return Solid("hull", foot + UP * half[1], axes, half, kit.look(half.max()), faces)


def cone(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cone on its base."""
    half = size / 2 * np.array([*[kit.rng.uniform(0.2, 0.7)] * 2, kit.rng.uniform(0.6, 1.2)])
    return [Solid("cone", foot + UP * half[2], along(-UP), half, kit.look(size))]


def ring(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A torus that lies, stands or leans."""
    tube, outer = kit.rng.uniform(0.1, 0.4), size * kit.rng.uniform(0.3, 0.6)
    thick = outer * tube / (1 + tube)
    half = np.array([outer, outer, thick])
    stands = kit.chance(0.6)
    axes = along(kit.yaw()[0] + UP * kit.rng.normal(0, 0.2)) if stands else along(UP)
    centre = foot + UP * (outer if stands else thick)
    return [Solid("torus", centre, axes, half, kit.look(size), np.array([tube]))]


def pebble(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A superellipsoid, from a pillow to a rounded box."""
    half = size / 2 * kit.rng.uniform(0.4, 1, 3)
    axes = kit.yaw()[[0, 2, 1]]
    exponents = kit.rng.uniform(1.2, 5, 2)
    return [Solid("super", foot + UP * half[2], axes, half, kit.look(size), exponents)]


def gable(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A house: walls and a pitched roof."""
    half = size / 2 * kit.rng.uniform(0.5, 1, 3)
    steep = kit.rng.uniform(0.5, 1)
    faces = [[steep, 1, 0, 1 + steep * 0.1], [-steep, 1, 0, 1 + steep * 0.1]]
    return [_hull(kit, foot, kit.yaw(), faces, half)]


def pyramid(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A pyramid, whole or cut off."""
    half, top = size / 2 * kit.rng.uniform(0.5, 1.1, 3), kit.rng.uniform(0.5, 0.8)
    faces = [[x, 1 - top, z, top] for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return [_hull(kit, foot, kit.yaw(), faces, half)]


def prism(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An upright prism of five to eight sides."""
    count, half = (
        int(kit.rng.integers(5, 9)),
        size / 2 * np.array([0.5, kit.rng.uniform(0.5, 1.6), 0.5]),
    )
    turns = np.arange(count) * 2 * np.pi / count
    faces = [[np.cos(turn), 0, np.sin(turn), 0.9] for turn in turns]
    return [_hull(kit, foot, kit.yaw(), faces, half)]


def angle(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An L-shaped block, upright or lying."""
    axes, look, thick = kit.yaw(), kit.look(size), size * kit.rng.uniform(0.06, 0.2)
    long, deep = size / 2, size * kit.rng.uniform(0.1, 0.4)
    post = foot + UP * long + axes[0] * (thick - long)
    return [
        kit.box(foot + UP * thick, [long, thick, deep], axes, look),
        kit.box(post, [thick, long, deep], axes, look),
    ]


def stairs(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Steps that rise along one side."""
    axes, look, count = kit.yaw(), kit.look(size), int(kit.rng.integers(4, 9))
    run, rise, wide = size / count, size * kit.rng.uniform(0.4, 0.8) / count, size * 0.4
    found = []
    for i in range(count):
        half = [wide, rise * (i + 1) / 2, run / 2]
        found.append(kit.box(foot + axes[2] * run * i + UP * half[1], half, axes, look))
    return found


def spokes(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Thin rods from one point, as of an umbrella."""
    middle, radius, look = foot + UP * size * 0.6, size * kit.among(0.004, 0.015), kit.look(size)
    ways = kit.rng.normal(size=(kit.rng.integers(5, 12), 3))
    ways *= size * 0.6 / np.linalg.norm(ways, axis=-1, keepdims=True)
    return [kit.rod(middle, middle + way, radius, look) for way in ways]


STRANGE = (cone, ring, ring, pebble, pebble, gable, pyramid, prism, angle, stairs, spokes)
