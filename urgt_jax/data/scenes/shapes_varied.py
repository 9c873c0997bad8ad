"""Shapes of the split `varied`, with bent or leaning surfaces. None is in the split `other`."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder, along
from urgt_jax.data.scenes.solids import Solid


def vase(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A body of revolution with a wavy outline, upright or lying."""
    half = (
        size / 2 * np.array([*[builder.rng.uniform(0.25, 0.7)] * 2, builder.rng.uniform(0.5, 1.2)])
    )
    waves = [
        [builder.rng.uniform(0, 0.3), builder.rng.uniform(1, 6), builder.rng.uniform(0, 6)]
        for _ in "ab"
    ]
    lying = builder.chance(0.2)
    axes = along(builder.upright_axes()[0]) if lying else along(UP)
    centre = foot + UP * half[0 if lying else 2]
    return [Solid("vase", centre, axes, half, builder.look(size), np.array(waves))]


def blob(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Balls that melt into each other."""
    half = size / 2 * builder.rng.uniform(0.5, 1, 3)
    count = int(builder.rng.integers(2, 6))
    balls = np.concatenate(
        [builder.rng.uniform(-0.5, 0.5, (count, 3)), builder.rng.uniform(0.25, 0.5, (count, 1))], 1
    )
    return [
        Solid(
            "blob",
            foot + UP * half[1] * 0.9,
            builder.random_axes(),
            half,
            builder.look(size),
            balls,
        )
    ]


def mound(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """An ellipsoid that is buried to its middle or deeper."""
    half = size / 2 * builder.rng.uniform([0.5, 0.15, 0.5], [1.5, 0.8, 1.5])
    return [
        builder.ball(
            foot - UP * half[1] * builder.rng.uniform(0, 0.6), half, builder.upright_axes()
        )
    ]


def bush(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cloud of balls and eggs."""
    looks, solids = [builder.look(size / 2) for _ in range(2)], []
    for _ in range(builder.rng.integers(5, 14)):
        place = foot + UP * size * 0.4 + builder.rng.normal(0, 0.2, 3) * size
        half = size * builder.rng.uniform(0.08, 0.25) * builder.rng.uniform(0.5, 1, 3)
        solids.append(
            builder.ball(place, half, builder.random_axes(), looks[builder.rng.integers(2)])
        )
    return solids


def vine(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A winding tube: rods with balls where they meet."""
    radius, look, solids = size * builder.log_uniform(0.015, 0.08), builder.look(size), []
    direction, start = UP + builder.rng.normal(0, 0.4, 3), foot
    for _ in range(builder.rng.integers(4, 9)):
        direction = direction / np.linalg.norm(direction)
        end = start + direction * size * 0.2
        solids += [builder.rod(start, end, radius, look), builder.ball(end, radius, look=look)]
        direction, start = direction + builder.rng.normal(0, 0.5, 3), end
    return solids


def ramp(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box in a random orientation, half in the ground."""
    half = size / 2 * builder.rng.uniform(0.3, 1.2, 3)
    return [builder.box(foot, half, builder.random_axes())]


def fan(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Sheets joined at their edges, like a folding screen or an open book."""
    axes, look, solids = builder.upright_axes(), builder.look(size), []
    first_angle, wide = builder.rng.uniform(0, 6), size * builder.rng.uniform(0.15, 0.4)
    tall, zigzag, at = (
        size * builder.rng.uniform(0.3, 0.6),
        builder.chance(0.5),
        foot + UP * size * 0.3,
    )
    for k in range(builder.rng.integers(3, 8)):
        angle = first_angle + (0.9 * (-1) ** k if zigzag else 0.45 * k)
        side = axes[0] * np.cos(angle) + axes[2] * np.sin(angle)
        middle = at + side * wide
        solids.append(
            builder.card(
                middle, [wide, tall], np.stack([side, UP, np.cross(side, UP)]), look, False
            )
        )
        at = at + 2 * side * wide if zigzag else at
    return solids


BENT = (vase, vase, blob, blob, mound, bush, vine, ramp, fan)
