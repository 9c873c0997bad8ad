"""Shapes of the split `varied`, with bent or leaning surfaces. None is in the split `other`."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder, along
from urgt_jax.data.scenes.rays import BALLS, VASE_WAVES
from urgt_jax.data.scenes.solids import Solid


def vase(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A body of revolution with a wavy outline, upright or lying."""
    radius = builder.rng.uniform(0.25, 0.7)
    length = builder.rng.uniform(0.5, 1.2)
    half = size / 2 * np.array([radius, radius, length])
    waves = []
    for _ in range(VASE_WAVES):
        amplitude = builder.rng.uniform(0, 0.3)
        frequency = builder.rng.uniform(1, 6)
        waves.append([amplitude, frequency, builder.rng.uniform(0, 6)])
    if builder.chance(0.2):  # it lies
        axes = along(builder.upright_axes()[0])
        centre = foot + UP * half[0]
    else:
        axes = along(UP)
        centre = foot + UP * half[2]
    return [Solid("vase", centre, axes, half, builder.look(size), np.array(waves))]


def blob(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Balls that melt into each other."""
    half = size / 2 * builder.rng.uniform(0.5, 1, 3)
    count = int(builder.rng.integers(2, BALLS + 1))
    centres = builder.rng.uniform(-0.5, 0.5, (count, 3))
    radii = builder.rng.uniform(0.25, 0.5, (count, 1))
    balls = np.concatenate([centres, radii], 1)
    axes = builder.random_axes()
    look = builder.look(size)
    return [Solid("blob", foot + UP * half[1] * 0.9, axes, half, look, balls)]


def mound(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An ellipsoid that is buried to its middle or deeper."""
    half = size / 2 * builder.rng.uniform([0.5, 0.15, 0.5], [1.5, 0.8, 1.5])
    centre = foot - UP * half[1] * builder.rng.uniform(0, 0.6)
    return [builder.ball(centre, half, builder.upright_axes())]


def bush(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cloud of balls and eggs."""
    looks = [builder.look(size / 2) for _ in range(2)]
    solids = []
    for _ in range(builder.rng.integers(5, 14)):
        place = foot + UP * size * 0.4 + builder.rng.normal(0, 0.2, 3) * size
        half = size * builder.rng.uniform(0.08, 0.25) * builder.rng.uniform(0.5, 1, 3)
        axes = builder.random_axes()
        look = looks[builder.rng.integers(2)]
        solids.append(builder.ball(place, half, axes, look))
    return solids


def vine(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A winding tube: rods with balls where they meet."""
    radius = size * builder.log_uniform(0.015, 0.08)
    look = builder.look(size)
    direction = UP + builder.rng.normal(0, 0.4, 3)
    start = foot
    solids = []
    for _ in range(builder.rng.integers(4, 9)):
        direction = direction / np.linalg.norm(direction)
        end = start + direction * size * 0.2
        solids += [builder.rod(start, end, radius, look), builder.ball(end, radius, look=look)]
        direction = direction + builder.rng.normal(0, 0.5, 3)
        start = end
    return solids


def ramp(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box in a random orientation, half in the ground."""
    half = size / 2 * builder.rng.uniform(0.3, 1.2, 3)
    return [builder.box(foot, half, builder.random_axes())]


def fan(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Sheets joined at their edges, like a folding screen or an open book."""
    axes = builder.upright_axes()
    look = builder.look(size)
    first_angle = builder.rng.uniform(0, 6)
    wide = size * builder.rng.uniform(0.15, 0.4)
    tall = size * builder.rng.uniform(0.3, 0.6)
    zigzag = builder.chance(0.5)
    at = foot + UP * size * 0.3
    solids = []
    for k in range(builder.rng.integers(3, 8)):
        angle = first_angle + (0.9 * (-1) ** k if zigzag else 0.45 * k)
        side = axes[0] * np.cos(angle) + axes[2] * np.sin(angle)
        axes_of_sheet = np.stack([side, UP, np.cross(side, UP)])
        solids.append(builder.card(at + side * wide, [wide, tall], axes_of_sheet, look, False))
        if zigzag:
            at = at + 2 * side * wide
    return solids


BENT = (vase, vase, blob, blob, mound, bush, vine, ramp, fan)
