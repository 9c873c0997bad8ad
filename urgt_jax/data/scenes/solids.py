"""Solids: intersection with rays, normals, and coordinates on the surface.

Everything is computed in the local frame of a solid. The same functions serve camera rays (one
origin, many directions) and shadow rays (many origins, one direction).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from urgt_jax.data.scenes.textures import Look

NEAREST = 0.05  # distance of the near plane, metres
STEPS = 40  # samples along a ray in the search for an implicit surface
F = np.float32
SIGNS = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, 8).T


@dataclass(frozen=True)
class Solid:
    """A solid. Its local axes are the rows of `axes`; an elongated solid is long along z."""

    kind: str
    centre: np.ndarray  # [3] metres; of a plane, any point on it
    axes: np.ndarray  # [3, 3]
    half: np.ndarray  # [3] half sizes in metres
    look: Look
    shape: np.ndarray | None = None  # parameters of the kind: exponents, half-spaces, waves
    flat: bool = False  # part of another surface; casts no shadow


def local(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Points in the solid's frame, metres."""
    return (points - solid.centre.astype(F)) @ solid.axes.astype(F).T


def meet(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> Float[np.ndarray, "*B"]:
    """Distance at which local rays enter the solid, in lengths of `direction`; -1 if they miss."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return MEET[solid.kind](solid, origin, direction)


def meet_rays(solid: Solid, rays: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B"]:
    """Distance at which rays from the camera enter the solid; -1 if they miss."""
    axes = solid.axes.astype(F)
    return meet(solid, -(solid.axes @ solid.centre).astype(F), rays @ axes.T)


def corners(solid: Solid) -> Float[np.ndarray, "8 3"]:
    """Corners of the bounding box, metres."""
    return solid.centre + (SIGNS * solid.half) @ solid.axes


def _safe(x: F | np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1e-9, F(1e-9), x)


def _plane(solid: Solid, origin, direction):
    return -origin[..., 2] / _safe(direction[..., 2])


def _card(solid: Solid, origin, direction):
    t = _plane(solid, origin, direction)
    x = (origin[..., 0] + t * direction[..., 0]) / F(solid.half[0])
    y = (origin[..., 1] + t * direction[..., 1]) / F(solid.half[1])
    inside = np.maximum(np.abs(x), np.abs(y)) < 1 if solid.shape is None else x * x + y * y < 1
    return np.where(inside, t, -1)


def _slab(origin, direction, half):
    """Where rays enter and leave a box."""
    direction = _safe(direction)
    middle, reach = -origin / direction, half.astype(F) / np.abs(direction)
    # Three operands are quicker than a reduction over a last axis of three.
    one, two = middle - reach, middle + reach
    enter = np.maximum(np.maximum(one[..., 0], one[..., 1]), one[..., 2])
    return enter, np.minimum(np.minimum(two[..., 0], two[..., 1]), two[..., 2])


def _box(solid: Solid, origin, direction):
    enter, leave = _slab(origin, direction, solid.half)
    return np.where(enter < leave, enter, -1)


def _round(origin, direction, count: int):
    """Where rays enter and leave radius 1 of the first `count` axes, from the closest approach."""
    o, d = [origin[..., i] for i in range(count)], [direction[..., i] for i in range(count)]
    square = np.maximum(sum(x * x for x in d), F(1e-12))
    near = -sum(a * b for a, b in zip(o, d, strict=True)) / square
    left = 1 - sum((a + b * near) ** 2 for a, b in zip(o, d, strict=True))
    reach = np.sqrt(np.maximum(left, 0) / square)
    return near - reach, near + reach, left > 0


def _ellipsoid(solid: Solid, origin, direction):
    half = solid.half.astype(F)
    enter, _, hit = _round(origin / half, direction / half, 3)
    return np.where(hit, enter, -1)


def _cylinder(solid: Solid, origin, direction):
    half = solid.half.astype(F)
    origin, direction = origin / half, direction / half
    enter, leave, hit = _round(origin, direction, 2)
    along = _safe(direction[..., 2])
    middle, reach = -origin[..., 2] / along, 1 / np.abs(along)
    enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
    return np.where(hit & (enter < leave), enter, -1)


def _hull(solid: Solid, origin, direction):
    """A convex body. Each row of `shape` is a half-space: normal and distance."""
    enter, leave = F(-np.inf), F(np.inf)
    for x, y, z, distance in solid.shape.astype(F):
        slope = direction[..., 0] * x + direction[..., 1] * y + direction[..., 2] * z
        t = (distance - (origin[..., 0] * x + origin[..., 1] * y + origin[..., 2] * z)) / _safe(
            slope
        )
        enter = np.where(slope < 0, np.maximum(enter, t), enter)
        leave = np.where(slope < 0, leave, np.minimum(leave, t))
    return np.where(enter < leave, enter, -1)


def _implicit(solid: Solid, origin, direction):
    """The first change of sign of `_level` along a ray, within the bounding box."""
    enter, leave = _slab(origin, direction, solid.half)
    enter = np.maximum(enter, F(NEAREST))
    inside = enter < leave
    out = np.full(enter.shape, -1, F)
    if not inside.any():
        return out
    o = np.broadcast_to(origin, (*enter.shape, 3))[inside]
    d = np.broadcast_to(direction, (*enter.shape, 3))[inside]
    near, far = enter[inside], leave[inside]
    low, high, hit_before = near, near, _level(solid, o + d * near[:, None]) <= 0
    for k in range(1, STEPS + 1):
        t = near + (far - near) * F(k / STEPS)
        hit = ~hit_before & (_level(solid, o + d * t[:, None]) <= 0)
        low = np.where(hit_before | hit, low, t)
        high = np.where(hit, t, high)
        hit_before |= hit
    for _ in range(20):
        middle = (low + high) / 2
        below = _level(solid, o + d * middle[:, None]) <= 0
        low, high = np.where(below, low, middle), np.where(below, middle, high)
    out[inside] = np.where(hit_before, high, -1)
    return out


def _level(solid: Solid, p: np.ndarray) -> np.ndarray:
    """A function of local points that is negative inside an implicit solid."""
    x, y, z = (p / solid.half.astype(F)).T
    if solid.kind == "cone":
        return np.hypot(x, y) - (z + 1) / 2
    if solid.kind == "super":
        e, f = solid.shape
        return (np.abs(x) ** F(e) + np.abs(y) ** F(e)) ** F(f / e) + np.abs(z) ** F(f) - 1
    if solid.kind == "vase":
        return np.hypot(x, y) - _outline(solid, z)[0]
    if solid.kind == "blob":
        return F(0.5) - sum(_balls(solid, x, y, z))
    if solid.kind == "torus":  # the box around it is 1 + tube wide and one tube high
        tube = F(solid.shape[0])
        ring = np.hypot(x, y) * (1 + tube) - 1
        return np.hypot(ring, z * tube) - tube
    return z - F(0.9) * np.mean(_waves(solid, p)[0], 0)  # bumpy ground


def _outline(solid: Solid, z: np.ndarray):
    """A vase's radius at a height, as a share of the largest, and how it changes."""
    radius, change = np.full_like(z, 0.65), np.zeros_like(z)
    for strength, rate, phase in solid.shape.astype(F):
        radius += strength * F(0.5) * np.sin(rate * z + phase)
        change += strength * F(0.5) * rate * np.cos(rate * z + phase)
    return radius, change


def _balls(solid: Solid, x, y, z) -> list[np.ndarray]:
    """The contribution of each ball of a blob. Its surface is where they sum to one half."""
    return [
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (r * r))
        for a, b, c, r in solid.shape.astype(F)
    ]


def _waves(solid: Solid, p: np.ndarray):
    """The waves of bumpy ground, and their derivatives with respect to the phase."""
    phase = [p[:, 0] * F(a) + p[:, 1] * F(b) + F(c) for a, b, c in solid.shape]
    return np.sin(phase), np.cos(phase)


def _signed_power(x: np.ndarray, exponent: np.float32) -> np.ndarray:
    return np.sign(x) * np.abs(x) ** exponent


def _slope(solid: Solid, p: np.ndarray) -> np.ndarray:
    """The gradient of `_level`, up to a factor."""
    half = solid.half.astype(F)
    x, y, z = (p / half).T
    if solid.kind == "cone":
        far = np.maximum(np.hypot(x, y), F(1e-6))
        slope = np.stack([x / far, y / far, np.full_like(x, -0.5)], -1)
    elif solid.kind == "super":
        e, f = map(F, solid.shape)
        inner = np.maximum(np.abs(x) ** e + np.abs(y) ** e, F(1e-12)) ** (f / e - 1)
        slope = np.stack(
            [
                inner * _signed_power(x, e - 1),
                inner * _signed_power(y, e - 1),
                _signed_power(z, f - 1),
            ],
            -1,
        )
    elif solid.kind == "vase":
        far = np.maximum(np.hypot(x, y), F(1e-6))
        slope = np.stack([x / far, y / far, -_outline(solid, z)[1]], -1)
    elif solid.kind == "blob":
        weights, balls = _balls(solid, x, y, z), solid.shape.astype(F)
        parts = zip(weights, balls, strict=True)
        place = np.stack([x, y, z], -1)
        slope = sum((w / ball[3] ** 2)[:, None] * (place - ball[:3]) for w, ball in parts)
    elif solid.kind == "torus":
        tube = F(solid.shape[0])
        far = np.maximum(np.hypot(x, y), F(1e-6))
        ring = (far * (1 + tube) - 1) * (1 + tube)
        slope = np.stack([ring * x / far, ring * y / far, z * tube * tube], -1)
    else:
        cosine, waves = _waves(solid, p)[1], solid.shape.astype(F)
        share = F(0.9 / len(waves))
        slope = -share * cosine.T @ waves[:, :2]
        return np.concatenate([slope, np.full((len(p), 1), 1 / half[2], F)], -1)
    return slope / half


def _lid(solid: Solid, p: np.ndarray) -> np.ndarray:
    """Whether points of an implicit solid are on a flat end: the base of a cone, both of a vase."""
    ends = {"cone": p[:, 2], "vase": np.abs(p[:, 2])}.get(solid.kind, np.zeros_like(p[:, 2]))
    return ends > F(solid.half[2] * (1 - 1e-3))


MEET = {
    "plane": _plane,
    "card": _card,
    "box": _box,
    "ellipsoid": _ellipsoid,
    "cylinder": _cylinder,
    "hull": _hull,
    "cone": _implicit,
    "super": _implicit,
    "torus": _implicit,
    "bumps": _implicit,
    "vase": _implicit,
    "blob": _implicit,
}


def _outward(solid: Solid, p: np.ndarray) -> np.ndarray:
    """Local normals of any length at local points on the solid."""
    unit, half = np.eye(3, dtype=F), solid.half.astype(F)
    if solid.kind in ("plane", "card"):
        return np.broadcast_to(unit[2], p.shape)
    if solid.kind == "box":
        return unit[np.abs(p / half).argmax(-1)]
    if solid.kind == "ellipsoid":
        return p / half**2
    if solid.kind == "cylinder":
        q = p / half
        side = np.hypot(q[:, 0], q[:, 1]) > np.abs(q[:, 2])
        return np.where(side[:, None], p / half**2 * np.array([1, 1, 0], F), unit[2])
    if solid.kind == "hull":
        faces = solid.shape.astype(F)
        return faces[(p @ faces[:, :3].T - faces[:, 3]).argmax(-1), :3]
    return np.where(_lid(solid, p)[:, None], unit[2], _slope(solid, p))


def normals(solid: Solid, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Unit normals in the local frame, of either sign, at local points on the solid."""
    out = _outward(solid, p)
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


def surface(
    solid: Solid, p: Float[np.ndarray, "n 3"], n: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 2"]:
    """Texture coordinates in metres at local points with local normals."""
    if solid.kind in ("ellipsoid", "torus", "cone", "super", "vase", "blob"):
        along = np.arctan2(p[:, 1], p[:, 0]) * F(solid.half[0])
        return np.stack([along, np.arcsin(np.clip(n[:, 2], -1, 1)) * F(solid.half[2])], -1)
    if solid.kind == "cylinder":
        along = np.arctan2(p[:, 1], p[:, 0]) * F(solid.half[0])
        side = np.abs(n[:, 2:]) < 0.5
        return np.where(side, np.stack([along, p[:, 2]], -1), p[:, :2])
    face = np.abs(n).argmax(-1)
    places = np.array([[1, 2], [0, 2], [0, 1]])[face]
    offset = F(3.7 * solid.half[0]) * face[:, None] if solid.kind == "box" else 0
    return np.take_along_axis(p, places, 1) + offset
