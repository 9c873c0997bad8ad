"""Things of the split `varied`, whose surfaces bend or lean; none is of a kind that `other` has."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder, along
from urgt_jax.data.scenes.solids import Solid


def vase(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A body of revolution with a wavy outline, upright or lying."""
    half = size / 2 * np.array([*[kit.rng.uniform(0.25, 0.7)] * 2, kit.rng.uniform(0.5, 1.2)])
    waves = [[kit.rng.uniform(0, 0.3), kit.rng.uniform(1, 6), kit.rng.uniform(0, 6)] for _ in "ab"]
    lies = kit.chance(0.2)
    axes = along(kit.yaw()[0]) if lies else along(UP)
    centre = foot + UP * half[0 if lies else 2]
    return [Solid("vase", centre, axes, half, kit.look(size), np.array(waves))]


def blob(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Balls that melt into each other."""
    half = size / 2 * kit.rng.uniform(0.5, 1, 3)
    count = int(kit.rng.integers(2, 6))
    balls = np.concatenate(
        [kit.rng.uniform(-0.5, 0.5, (count, 3)), kit.rng.uniform(0.25, 0.5, (count, 1))], 1
    )
    return [Solid("blob", foot + UP * half[1] * 0.9, kit.tumbled(), half, kit.look(size), balls)]


def mound(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An ellipsoid that is buried to its middle or deeper."""
    half = size / 2 * kit.rng.uniform([0.5, 0.15, 0.5], [1.5, 0.8, 1.5])
    return [kit.ball(foot - UP * half[1] * kit.rng.uniform(0, 0.6), half, kit.yaw())]


def bush(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cloud of balls and eggs."""
    looks, found = [kit.look(size / 2) for _ in range(2)], []
    for _ in range(kit.rng.integers(5, 14)):
        place = foot + UP * size * 0.4 + kit.rng.normal(0, 0.2, 3) * size
        half = size * kit.rng.uniform(0.08, 0.25) * kit.rng.uniform(0.5, 1, 3)
        found.append(kit.ball(place, half, kit.tumbled(), looks[kit.rng.integers(2)]))
    return found


def vine(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A tube that wanders: rods with balls where they meet."""
    radius, look, found = size * kit.among(0.015, 0.08), kit.look(size), []
    way, start = UP + kit.rng.normal(0, 0.4, 3), foot
    for _ in range(kit.rng.integers(4, 9)):
        way = way / np.linalg.norm(way)
        end = start + way * size * 0.2
        found += [kit.rod(start, end, radius, look), kit.ball(end, radius, look=look)]
        way, start = way + kit.rng.normal(0, 0.5, 3), end
    return found


def ramp(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box turned any way and half in the ground."""
    half = size / 2 * kit.rng.uniform(0.3, 1.2, 3)
    return [kit.box(foot, half, kit.tumbled())]


def fan(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Sheets turned more and more about one edge, as of a screen or an open book."""
    axes, look, found = kit.yaw(), kit.look(size), []
    turn, wide = kit.rng.uniform(0, 6), size * kit.rng.uniform(0.15, 0.4)
    tall, zigzag, at = size * kit.rng.uniform(0.3, 0.6), kit.chance(0.5), foot + UP * size * 0.3
    for k in range(kit.rng.integers(3, 8)):
        angle = turn + (0.9 * (-1) ** k if zigzag else 0.45 * k)
        side = axes[0] * np.cos(angle) + axes[2] * np.sin(angle)
        middle = at + side * wide
        found.append(
            kit.card(middle, [wide, tall], np.stack([side, UP, np.cross(side, UP)]), look, False)
        )
        at = at + 2 * side * wide if zigzag else at
    return found


BENT = (vase, vase, blob, blob, mound, bush, vine, ramp, fan)
