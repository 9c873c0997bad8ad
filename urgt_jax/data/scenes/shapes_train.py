"""Shapes to train on: functions of a builder, a point on the floor and a size in metres."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder
from urgt_jax.data.scenes.solids import Solid

CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))  # signs of x and z


def crate(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box."""
    half = size / 2 * builder.rng.uniform(0.3, 1, 3)
    return [builder.box(foot + UP * half[1], half, builder.upright_axes())]


def ball(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A sphere or an egg."""
    if builder.chance(0.5):
        ratios = builder.rng.uniform(0.4, 1, 3)
    else:
        ratios = np.full(3, builder.rng.uniform(0.4, 1))
    half = size / 2 * ratios
    return [builder.ball(foot + UP * half[1], half, builder.upright_axes())]


def can(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cylinder, upright or lying."""
    radius = size * builder.rng.uniform(0.1, 0.35)
    length = size * builder.rng.uniform(0.4, 1.2)
    if builder.chance(0.7):
        return [builder.rod(foot, foot + UP * length, radius)]
    side = builder.upright_axes()[0] * length / 2
    return [builder.rod(foot + UP * radius - side, foot + UP * radius + side, radius)]


def bottle(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A wide cylinder, a dome and a neck."""
    radius = size * builder.rng.uniform(0.1, 0.2)
    look = builder.look(size)
    neck = foot + UP * size * 0.6
    return [
        builder.rod(foot, neck, radius, look),
        builder.ball(neck, radius, look=look),
        builder.rod(neck, neck + UP * size * 0.35, radius * 0.35, look),
    ]


def stack(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Boxes or books on each other."""
    axes = builder.upright_axes()
    wide = size * builder.rng.uniform(0.3, 0.6)
    tallest = 0.2 if builder.chance(0.5) else 0.5
    solids = []
    for _ in range(builder.rng.integers(2, 7)):
        half = wide * builder.rng.uniform([0.5, 0.06, 0.5], [0.8, tallest, 0.8])
        if builder.chance(0.2):
            axes = builder.upright_axes()
        shift = axes[0] * wide * builder.rng.normal(0, 0.06)
        solids.append(builder.box(foot + shift + UP * half[1], half, axes))
        foot = foot + UP * 2 * half[1]
    return solids


def books(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A row of upright books."""
    axes = builder.upright_axes()
    at = -size / 2
    solids = []
    for _ in range(builder.rng.integers(4, 10)):
        half = size * builder.rng.uniform([0.02, 0.2, 0.15], [0.06, 0.35, 0.25])
        solids.append(builder.box(foot + axes[0] * (at + half[0]) + UP * half[1], half, axes))
        at += 2 * half[0]
    return solids


def table(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A table with small shapes on it."""
    axes = builder.upright_axes()
    look = builder.look(size)
    half = size / 2 * builder.rng.uniform([0.7, 0.03, 0.5], [1.2, 0.06, 0.9])
    tall = size * builder.rng.uniform(0.4, 0.8)
    leg = size * builder.rng.uniform(0.012, 0.04)
    solids = [builder.box(foot + UP * tall, half, axes, look)]
    for x, z in CORNERS:
        place = foot + axes[0] * x * half[0] * 0.9 + axes[2] * z * half[2] * 0.9
        solids.append(builder.box(place + UP * tall / 2, [leg, tall / 2, leg], axes, look))
    for _ in range(builder.rng.integers(0, 4)):
        x, z = builder.rng.uniform(-0.8, 0.8, 2)
        place = foot + UP * (tall + half[1]) + axes[0] * x * half[0] + axes[2] * z * half[2]
        shape = SMALL[builder.rng.integers(len(SMALL))]
        solids += shape(builder, place, size * builder.rng.uniform(0.15, 0.4))
    return solids


def chair(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A seat, legs and a back of bars or one board."""
    axes = builder.upright_axes()
    look = builder.look(size)
    leg = size * builder.rng.uniform(0.012, 0.035)
    wide = size * 0.25
    seat = size * 0.5
    solids = [builder.box(foot + UP * seat, [wide, leg, wide], axes, look)]
    for x, z in CORNERS:
        tall = size if z > 0 else seat
        place = foot + (axes[0] * x + axes[2] * z) * wide * 0.9
        solids.append(builder.box(place + UP * tall / 2, [leg, tall / 2, leg], axes, look))
    heights = (0.65, 0.78, 0.92) if builder.chance(0.6) else (0.8,)
    for height in heights:
        bar = leg * 1.5 if builder.chance(0.8) else size * 0.12
        place = foot + UP * size * height + axes[2] * wide * 0.9
        solids.append(builder.box(place, [wide, bar, leg * 0.7], axes, look))
    return solids


def shelf(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Boards between sides, with books and boxes on them."""
    axes = builder.upright_axes()
    look = builder.look(size)
    thick = size * 0.015
    if axes[2, 2] > 0:  # turn its front towards the camera
        axes = axes * np.array([[-1], [1], [-1]])
    wide = size * builder.rng.uniform(0.3, 0.5)
    deep = size * 0.15
    rows = int(builder.rng.integers(2, 5))
    solids = []
    for x in (-1, 1):
        place = foot + axes[0] * x * wide + UP * size / 2
        solids.append(builder.box(place, [thick, size / 2, deep], axes, look))
    if builder.chance(0.6):
        back = foot - axes[2] * deep + UP * size / 2
        solids.append(builder.box(back, [wide, size / 2, thick / 2], axes, look))
    for row in range(rows + 1):
        base = foot + UP * size * row / rows
        solids.append(builder.box(base, [wide, thick, deep], axes, look))
        if row == rows:  # nothing stands on the upper board
            break
        for _ in range(builder.rng.integers(0, 4)):
            half = size / rows * builder.rng.uniform([0.05, 0.2, 0.1], [0.2, 0.42, 0.2])
            half[2] = min(half[2], deep * 0.9)
            side = axes[0] * builder.rng.uniform(-0.75, 0.75) * wide
            solids.append(builder.box(base + side + UP * (half[1] + thick), half, axes))
    return solids


def fence(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Posts and rails, or a grille of thin rods."""
    axes = builder.upright_axes()
    look = builder.look(size)
    gap = size * builder.rng.uniform(0.06, 0.2)
    count = int(builder.rng.integers(5, 14))
    thick = gap * builder.rng.uniform(0.05, 0.25)
    tall = size * 0.6
    ends = [foot + axes[0] * gap * (i - count / 2) for i in range(count)]
    if builder.chance(0.5):
        solids = [builder.rod(end, end + UP * tall, thick / 2, look) for end in ends]
    else:
        half = [thick, tall / 2, thick / 3]
        solids = [builder.box(end + UP * tall / 2, half, axes, look) for end in ends]
    for height in (0.25, 0.8):
        middle = (ends[0] + ends[-1]) / 2 + UP * tall * height
        half = [gap * count / 2, thick / 2, thick / 4]
        solids.append(builder.box(middle, half, axes, look))
    return solids


def pole(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A thin post with a lamp, a sign, or nothing on it."""
    tall = size * builder.rng.uniform(1, 2.2)
    radius = size * builder.log_uniform(0.004, 0.03)
    look = builder.look(size)
    lean = builder.rng.normal(0, 0.05, 3) * tall
    end = foot + UP * tall + lean
    solids = [builder.rod(foot, end, radius, look)]
    what = builder.rng.random()
    if what < 0.3:
        solids.append(builder.ball(end, size * builder.rng.uniform(0.06, 0.15)))
    elif what < 0.6:
        half = size * builder.rng.uniform([0.1, 0.1, 0.005], [0.3, 0.25, 0.02])
        axes = builder.upright_axes()
        sign = builder.look(half[0], ("poster", "text", "stripes"))
        solids.append(builder.box(end, half, axes, sign))
    return solids


def wires(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Nearly parallel, sagging wires overhead."""
    along = builder.upright_axes()[0] * size * builder.rng.uniform(0.7, 2)
    start = foot + UP * size * builder.rng.uniform(0.4, 1.3)
    look = builder.look(size)
    radius = size * builder.log_uniform(0.003, 0.01)
    solids = []
    for i in range(builder.rng.integers(1, 4)):
        first = start + UP * size * 0.12 * i - along
        last = first + 2 * along + builder.rng.normal(0, 0.08, 3) * size
        middle = (first + last) / 2 - UP * size * builder.rng.uniform(0, 0.15)
        solids.append(builder.rod(first, middle, radius, look))
        solids.append(builder.rod(middle, last, radius, look))
    return solids


def leaves(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Small tilted discs or rectangles scattered through a ball."""
    middle = foot + UP * size * 0.5
    looks = [builder.look(size / 3) for _ in range(2)]
    wide = size * builder.rng.uniform(0.06, 0.2)
    oval = builder.chance(0.7)
    long = builder.rng.uniform(0.2, 1)
    solids = []
    for _ in range(builder.rng.integers(10, 22)):
        place = middle + np.clip(builder.rng.normal(0, 0.2, 3), -0.45, 0.45) * size
        half = wide * builder.rng.uniform(0.6, 1.3) * np.array([1, long])
        axes = builder.random_axes()
        look = looks[builder.rng.integers(2)]
        solids.append(builder.card(place, half, axes, look, oval))
    return solids


def plant(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A pot or a trunk below leaves."""
    thick = size * builder.rng.uniform(0.02, 0.15)
    top = foot + UP * size * builder.rng.uniform(0.15, 0.6)
    return [builder.rod(foot, top, thick), *leaves(builder, top - UP * size * 0.1, size * 0.8)]


def board(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A thin panel that leans, often covered with print."""
    half = size / 2 * builder.rng.uniform([0.4, 0.4, 0.01], [1.2, 1, 0.03])
    axes = builder.upright_axes() + builder.rng.normal(0, 0.1, (3, 3))
    axes = np.linalg.qr(axes.T)[0].T
    look = builder.look(size, ("poster", "text", "plain", "stripes", "checks"))
    return [builder.box(foot + UP * half[1], half, axes, look)]


def tumble(builder: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box, egg or can in the air, in a random orientation."""
    centre = foot + UP * size * builder.rng.uniform(0.2, 2)
    half = size / 2 * builder.rng.uniform(0.15, 1, 3)
    if builder.chance(0.6):
        return [builder.box(centre, half, builder.random_axes())]
    if builder.chance(0.5):
        return [builder.ball(centre, half, builder.random_axes())]
    direction = builder.rng.normal(size=3) * size * 0.4
    return [builder.rod(centre - direction, centre + direction, half[0] * 0.6)]


SMALL = (crate, ball, can, bottle, stack, books)
LARGE = (crate, crate, ball, can, stack, table, table, chair, chair, shelf, board, plant, leaves)
THIN = (fence, pole, pole, wires, plant, leaves, chair)
