"""Looks and single solids, drawn at random. All shapes are built from them."""

from dataclasses import dataclass

import numpy as np

from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import Look

PLAIN = ("plain", "plain", "blotches", "wood")
FINE = ("stripes", "checks", "dots", "tiles", "text", "poster", "bricks", "blotches", "wood")
OTHER = ("voronoi", "rings", "marble", "triangles", "plain")
WALLS = ("plain", "plain", "plain", "bricks", "tiles", "stripes", "blotches", "wood", "dots")
FLOORS = ("plain", "wood", "wood", "tiles", "checks", "blotches", "bricks", "stripes", "poster")
UP = np.array([0.0, -1.0, 0.0])  # y points down in world axes, as in camera axes


@dataclass
class Builder:
    """Draws the solids of a scene in world axes: x right, y down, z forward."""

    rng: np.random.Generator
    other: bool  # shapes that training never sees; textures too, except "plain"
    palette: np.ndarray  # [n, 3]
    varied: bool = False  # also shapes that bend

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < share)

    def log_uniform(self, low: float, high: float) -> float:
        """A number with a log-uniform distribution."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def colour(self) -> np.ndarray:
        """A colour near one of the palette."""
        base = self.palette[self.rng.integers(len(self.palette))]
        return np.clip(base * self.log_uniform(0.6, 1.5) + self.rng.normal(0, 0.03, 3), 0.015, 0.95)

    def look(self, size: float, patterns: tuple[str, ...] = ()) -> Look:
        """A look for a surface of a size in metres."""
        rng = self.rng
        if not patterns:
            patterns = PLAIN if self.chance(0.5) else FINE
        if self.other:
            patterns = OTHER
        pattern = patterns[rng.integers(len(patterns))]
        count = int(rng.integers(4, 7)) if pattern in ("poster", "text") else rng.integers(2, 4)
        first = self.colour()
        if pattern == "poster" or self.chance(0.35):
            colours = [first, *(self.colour() for _ in range(count - 1))]
        else:  # other shades of the first colour
            colours = [first, *(first * self.log_uniform(0.4, 2.2) for _ in range(count - 1))]
        angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.4, 0.3, 0.3])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return Look(
            pattern=pattern,
            colours=np.clip(colours, 0.01, 0.97),
            to_cells=rotation / (size * self.log_uniform(0.08, 0.7)),
            shift=rng.uniform(0, 50, 2),
            share=rng.random(),
            noise=(self.log_uniform(0.01, 0.15), rng.uniform(0.03, 0.2) * self.chance(0.5)),
            texel=size * self.log_uniform(0.004, 0.06),
            gloss=rng.uniform(0.1, 0.8) * self.chance(0.25),
            power=self.log_uniform(8, 120),
        )

    def upright_axes(self) -> np.ndarray:
        """Axes x, up, z of an upright solid, rotated about the vertical at random; rows."""
        angle = self.rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, 0, s], [0, -1, 0], [-s, 0, c]])

    def random_axes(self) -> np.ndarray:
        """Axes in a random orientation; rows."""
        return np.linalg.qr(self.rng.normal(size=(3, 3)))[0]

    def box(self, centre, half, axes, look: Look | None = None, casts_shadow: bool = True) -> Solid:
        """A box."""
        half = np.array(half, float)
        look = look or self.look(2 * half.max())
        centre = np.array(centre, float)
        return Solid("box", centre, axes, half, look, casts_shadow=casts_shadow)

    def ball(self, centre, half, axes=None, look: Look | None = None) -> Solid:
        """An ellipsoid, or a sphere where `half` is one number."""
        half = np.broadcast_to(half, 3).astype(float)
        if axes is None:
            axes = np.eye(3)
        look = look or self.look(half.max())
        return Solid("ellipsoid", np.array(centre, float), axes, half, look)

    def rod(self, start, end, radius: float, look: Look | None = None) -> Solid:
        """A cylinder between two points."""
        start = np.array(start, float)
        end = np.array(end, float)
        length = np.linalg.norm(end - start)
        half = np.array([radius, radius, length / 2])
        look = look or self.look(max(length / 3, 2 * radius))
        return Solid("cylinder", (start + end) / 2, along(end - start), half, look)

    def card(self, centre, half, axes, look: Look, oval: bool) -> Solid:
        """A rectangle or an ellipse without thickness; its last axis is its normal."""
        half = np.array([half[0], half[1], 1e-3])
        shape = np.ones(1) if oval else None  # any parameter means an ellipse (rays._card)
        return Solid("card", np.array(centre, float), axes, half, look, shape)

    def plane(self, point, normal, look: Look) -> Solid:
        """An infinite plane."""
        return Solid("plane", np.array(point, float), along(normal), np.full(3, 1e3), look)


def along(axis) -> np.ndarray:
    """Unit axes, the last of which has this direction; rows."""
    last = np.array(axis, float)
    last /= np.linalg.norm(last)
    side = np.cross(last, UP if abs(last[1]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(last, side), last])


def sample_palette(rng: np.random.Generator) -> np.ndarray:
    """A few colours that go together: greys, muted, saturated, or all nearly the same."""
    count = int(rng.integers(3, 8))
    manner = rng.random()
    bright = np.exp(rng.uniform(np.log(0.05), np.log(0.85), (count, 1)))
    hue = rng.random((count, 3))
    if manner < 0.3:
        return bright * (1 + 0.12 * (hue - 0.5))
    if manner < 0.72:
        return bright * (0.5 + 0.5 * hue) / 0.8
    if manner < 0.87:
        return np.clip(bright * hue**1.5 * 2.2, 0.01, 0.95)
    near = 1 + rng.normal(0, 0.12, (count, 1))
    return rng.uniform(0.1, 0.7) * (0.7 + 0.3 * rng.random(3)) * near
