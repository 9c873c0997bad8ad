"""Things that stand somewhere: functions of a kit, a foot point and a size in metres."""

import numpy as np

from urgt_jax.data.scenes.builder import UP, Builder
from urgt_jax.data.scenes.solids import Solid


def crate(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box."""
    half = size / 2 * kit.rng.uniform(0.3, 1, 3)
    return [kit.box(foot + UP * half[1], half, kit.yaw())]


def ball(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A sphere or an egg."""
    half = size / 2 * (kit.rng.uniform(0.4, 1, 3) if kit.chance(0.5) else kit.rng.uniform(0.4, 1))
    half = np.broadcast_to(half, 3)
    return [kit.ball(foot + UP * half[1], half, kit.yaw())]


def can(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A cylinder that stands, or lies."""
    radius, length = size * kit.rng.uniform(0.1, 0.35), size * kit.rng.uniform(0.4, 1.2)
    if kit.chance(0.7):
        return [kit.rod(foot, foot + UP * length, radius)]
    side = kit.yaw()[0] * length / 2
    return [kit.rod(foot + UP * radius - side, foot + UP * radius + side, radius)]


def bottle(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A wide cylinder, a dome and a neck."""
    radius, tall, look = size * kit.rng.uniform(0.1, 0.2), size * 0.6, kit.look(size)
    neck = foot + UP * tall
    return [
        kit.rod(foot, neck, radius, look), kit.ball(neck, radius, look=look),
        kit.rod(neck, neck + UP * size * 0.35, radius * 0.35, look),
    ]  # fmt: skip


def stack(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Boxes or books on each other."""
    found, axes, wide = [], kit.yaw(), size * kit.rng.uniform(0.3, 0.6)
    flat = kit.chance(0.5)
    for _ in range(kit.rng.integers(2, 7)):
        half = wide * kit.rng.uniform([0.5, 0.06, 0.5], [0.8, 0.2 if flat else 0.5, 0.8])
        axes = kit.yaw() if kit.chance(0.2) else axes
        shift = axes[0] * wide * kit.rng.normal(0, 0.06)
        found.append(kit.box(foot + shift + UP * half[1], half, axes))
        foot = foot + UP * 2 * half[1]
    return found


def books(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A row of upright books."""
    axes, at, found = kit.yaw(), -size / 2, []
    for _ in range(kit.rng.integers(4, 10)):
        half = size * kit.rng.uniform([0.02, 0.2, 0.15], [0.06, 0.35, 0.25])
        found.append(kit.box(foot + axes[0] * (at + half[0]) + UP * half[1], half, axes))
        at += 2 * half[0]
    return found


def table(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A top on four legs, with things on it."""
    axes, look = kit.yaw(), kit.look(size)
    half = size / 2 * kit.rng.uniform([0.7, 0.03, 0.5], [1.2, 0.06, 0.9])
    tall, leg = size * kit.rng.uniform(0.4, 0.8), size * kit.rng.uniform(0.012, 0.04)
    found = [kit.box(foot + UP * tall, half, axes, look)]
    for x, z in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        place = foot + axes[0] * x * half[0] * 0.9 + axes[2] * z * half[2] * 0.9
        found.append(kit.box(place + UP * tall / 2, [leg, tall / 2, leg], axes, look))
    for _ in range(kit.rng.integers(0, 4)):
        x, z = kit.rng.uniform(-0.8, 0.8, 2)
        place = foot + UP * (tall + half[1]) + axes[0] * x * half[0] + axes[2] * z * half[2]
        found += SMALL[kit.rng.integers(len(SMALL))](kit, place, size * kit.rng.uniform(0.15, 0.4))
    return found


def chair(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A seat, legs and a back of bars or one board."""
    axes, look, leg = kit.yaw(), kit.look(size), size * kit.rng.uniform(0.012, 0.035)
    wide, seat = size * 0.25, size * 0.5
    found = [kit.box(foot + UP * seat, [wide, leg, wide], axes, look)]
    for x, z in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        tall = size if z > 0 else seat
        place = foot + (axes[0] * x + axes[2] * z) * wide * 0.9
        found.append(kit.box(place + UP * tall / 2, [leg, tall / 2, leg], axes, look))
    for up in (0.65, 0.78, 0.92) if kit.chance(0.6) else (0.8,):
        bar = leg * 1.5 if kit.chance(0.8) else size * 0.12
        place = foot + UP * size * up + axes[2] * wide * 0.9
        found.append(kit.box(place, [wide, bar, leg * 0.7], axes, look))
    return found


def shelf(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Boards between sides, with books and boxes on them."""
    axes, look, thick = kit.yaw(), kit.look(size), size * 0.015
    if axes[2, 2] > 0:
        axes = axes * np.array([[-1], [1], [-1]])
    wide, deep, rows = size * kit.rng.uniform(0.3, 0.5), size * 0.15, int(kit.rng.integers(2, 5))
    found = [
        kit.box(foot + axes[0] * x * wide + UP * size / 2, [thick, size / 2, deep], axes, look)
        for x in (-1, 1)
    ]
    if kit.chance(0.6):
        back = foot - axes[2] * deep + UP * size / 2
        found.append(kit.box(back, [wide, size / 2, thick / 2], axes, look))
    for row in range(rows + 1):
        base = foot + UP * size * row / rows
        found.append(kit.box(base, [wide, thick, deep], axes, look))
        for _ in range(kit.rng.integers(0, 4) if row < rows else 0):
            half = size / rows * kit.rng.uniform([0.05, 0.2, 0.1], [0.2, 0.42, 0.2])
            half[2] = min(half[2], deep * 0.9)
            side = axes[0] * kit.rng.uniform(-0.75, 0.75) * wide
            found.append(kit.box(base + side + UP * (half[1] + thick), half, axes))
    return found


def fence(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Posts and rails, or a grille of thin rods."""
    axes, look, gap = kit.yaw(), kit.look(size), size * kit.rng.uniform(0.06, 0.2)
    count, thick, tall = int(kit.rng.integers(5, 14)), gap * kit.rng.uniform(0.05, 0.25), size * 0.6
    ends = [foot + axes[0] * gap * (i - count / 2) for i in range(count)]
    if kit.chance(0.5):
        found = [kit.rod(end, end + UP * tall, thick / 2, look) for end in ends]
    else:
        half = [thick, tall / 2, thick / 3]
        found = [kit.box(end + UP * tall / 2, half, axes, look) for end in ends]
    for up in (0.25, 0.8):
        middle = (ends[0] + ends[-1]) / 2 + UP * tall * up
        half = [gap * count / 2, thick / 2, thick / 4]
        found.append(kit.box(middle, half, axes, look))
    return found


def pole(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A thin post with a lamp, a sign, or nothing on it."""
    tall, radius, look = (
        size * kit.rng.uniform(1, 2.2),
        size * kit.among(0.004, 0.03),
        kit.look(size),
    )
    lean = kit.rng.normal(0, 0.05, 3) * tall
    end = foot + UP * tall + lean
    found = [kit.rod(foot, end, radius, look)]
    what = kit.rng.random()
    if what < 0.3:
        found.append(kit.ball(end, size * kit.rng.uniform(0.06, 0.15)))
    elif what < 0.6:
        half = size * kit.rng.uniform([0.1, 0.1, 0.005], [0.3, 0.25, 0.02])
        found.append(
            kit.box(end, half, kit.yaw(), kit.look(half[0], ("poster", "text", "stripes")))
        )
    return found


def wires(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Nearly parallel wires overhead, which sag."""
    along = kit.yaw()[0] * size * kit.rng.uniform(0.7, 2)
    start, look = foot + UP * size * kit.rng.uniform(0.4, 1.3), kit.look(size)
    radius, found = size * kit.among(0.003, 0.01), []
    for i in range(kit.rng.integers(1, 4)):
        a = start + UP * size * 0.12 * i - along
        b = a + 2 * along + kit.rng.normal(0, 0.08, 3) * size
        middle = (a + b) / 2 - UP * size * kit.rng.uniform(0, 0.15)
        found += [kit.rod(a, middle, radius, look), kit.rod(middle, b, radius, look)]
    return found


def leaves(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """Small tilted discs or rectangles scattered through a ball."""
    found, middle = [], foot + UP * size * 0.5
    looks = [kit.look(size / 3) for _ in range(2)]
    wide = size * kit.rng.uniform(0.06, 0.2)
    oval, long = kit.chance(0.7), kit.rng.uniform(0.2, 1)
    for _ in range(kit.rng.integers(10, 22)):
        place = middle + np.clip(kit.rng.normal(0, 0.2, 3), -0.45, 0.45) * size
        half = wide * kit.rng.uniform(0.6, 1.3) * np.array([1, long])
        found.append(kit.card(place, half, kit.tumbled(), looks[kit.rng.integers(2)], oval))
    return found


def plant(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A pot or a trunk below leaves."""
    thick = size * kit.rng.uniform(0.02, 0.15)
    top = foot + UP * size * kit.rng.uniform(0.15, 0.6)
    return [kit.rod(foot, top, thick), *leaves(kit, top - UP * size * 0.1, size * 0.8)]


def board(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A thin panel that leans, often covered with print."""
    half = size / 2 * kit.rng.uniform([0.4, 0.4, 0.01], [1.2, 1, 0.03])
    axes = kit.yaw() + kit.rng.normal(0, 0.1, (3, 3))
    axes = np.linalg.qr(axes.T)[0].T
    look = kit.look(size, ("poster", "text", "plain", "stripes", "checks"))
    return [kit.box(foot + UP * half[1], half, axes, look)]


def tumble(kit: Builder, foot: np.ndarray, size: float) -> list[Solid]:
    """A box, egg or can in the air, turned any way."""
    centre, half = (
        foot + UP * size * kit.rng.uniform(0.2, 2),
        size / 2 * kit.rng.uniform(0.15, 1, 3),
    )
    if kit.chance(0.6):
        return [kit.box(centre, half, kit.tumbled())]
    if kit.chance(0.5):
        return [kit.ball(centre, half, kit.tumbled())]
    way = kit.rng.normal(size=3) * size * 0.4
    return [kit.rod(centre - way, centre + way, half[0] * 0.6)]


SMALL = (crate, ball, can, bottle, stack, books)
LARGE = (crate, crate, ball, can, stack, table, table, chair, chair, shelf, board, plant, leaves)
THIN = (fence, pole, pole, wires, plant, leaves, chair)
