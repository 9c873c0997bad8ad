"""Rays meet solids: distances and normals, compiled.

Everything is computed in the local frame of a solid, for many rays and one solid (a
`arrays.SolidArrays` without its first axis). A point or direction is a tuple of its x, y and z:
pixels are then the only axis of every array, and loops over them have no gaps.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NEAREST = 0.05  # distance of the near plane, metres
STEPS = 40  # samples along a ray in the search for an implicit surface
HALVINGS = 20  # of the interval between two samples
WAVES = 5  # of bumpy ground
VASE_WAVES = 2
BALLS = 5  # of a blob, at most

Pixels = Float[Array, "..."]  # usually one axis: pixels
Vector = tuple[Pixels, Pixels, Pixels]


def dot(a: Vector, b: Vector) -> Pixels:
    """The scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def length(*parts: Pixels) -> Pixels:
    """The Euclidean norm of components."""
    square = parts[0] * parts[0]
    for part in parts[1:]:
        square = square + part * part
    return jnp.sqrt(square)


def turned(axes: Float[Array, "3 3 *P"], v: Vector) -> Vector:
    """A vector in the frame whose axes are the rows; one frame, or one for each pixel."""
    return tuple(axes[i, 0] * v[0] + axes[i, 1] * v[1] + axes[i, 2] * v[2] for i in range(3))


def local(solid, points: Vector) -> Vector:
    """Points in the solid's frame, metres."""
    return turned(solid.axes, tuple(points[i] - solid.centre[i] for i in range(3)))


def at(origin: Vector, direction: Vector, t: Pixels) -> Vector:
    """Points along rays."""
    return tuple(o + d * t for o, d in zip(origin, direction, strict=True))


def _scaled(solid, v: Vector) -> Vector:
    """A local vector in half sizes of the solid."""
    return tuple(v[i] / solid.half[i] for i in range(3))


def _safe(x: Pixels) -> Pixels:
    """Divisors, with a tiny one instead of zero."""
    return jnp.where(jnp.abs(x) < 1e-9, 1e-9, x)


def _plane(solid, origin: Vector, direction: Vector):
    return -origin[2] / _safe(direction[2])


def _card(solid, origin: Vector, direction: Vector):
    t = _plane(solid, origin, direction)
    x = (origin[0] + t * direction[0]) / solid.half[0]
    y = (origin[1] + t * direction[1]) / solid.half[1]
    rectangle = jnp.maximum(jnp.abs(x), jnp.abs(y)) < 1
    inside = jnp.where(solid.parts > 0, x * x + y * y < 1, rectangle)
    return jnp.where(inside, t, -1.0)


def _slab(half: Sequence[float] | Float[Array, "3"], origin: Vector, direction: Vector):
    """Where rays enter and leave a box of some half sizes."""
    enter, leave = -jnp.inf, jnp.inf
    for i in range(3):
        inverse = 1 / _safe(direction[i])
        middle = -origin[i] * inverse
        reach = half[i] * jnp.abs(inverse)
        enter = jnp.maximum(enter, middle - reach)
        leave = jnp.minimum(leave, middle + reach)
    return enter, leave


def _box(solid, origin: Vector, direction: Vector):
    enter, leave = _slab(solid.half, origin, direction)
    return jnp.where(enter < leave, enter, -1.0)


def _round(o: tuple, d: tuple):
    """Where rays enter and leave radius 1 around some axes, from the closest approach."""
    square = jnp.maximum(sum(x * x for x in d), 1e-12)
    near = -sum(a * b for a, b in zip(o, d, strict=True)) / square
    left = 1 - sum((a + b * near) ** 2 for a, b in zip(o, d, strict=True))
    reach = jnp.sqrt(jnp.maximum(left, 0) / square)
    return near - reach, near + reach, left > 0


def _ellipsoid(solid, origin: Vector, direction: Vector):
    enter, _, hit = _round(_scaled(solid, origin), _scaled(solid, direction))
    return jnp.where(hit, enter, -1.0)


def _cylinder(solid, origin: Vector, direction: Vector):
    origin, direction = _scaled(solid, origin), _scaled(solid, direction)
    enter, leave, hit = _round(origin[:2], direction[:2])
    inverse = 1 / _safe(direction[2])
    middle, reach = -origin[2] * inverse, jnp.abs(inverse)
    enter, leave = jnp.maximum(enter, middle - reach), jnp.minimum(leave, middle + reach)
    return jnp.where(hit & (enter < leave), enter, -1.0)


def _hull(solid, origin: Vector, direction: Vector):
    """A convex body. Each row of `shape` is a half-space: its normal and distance."""

    def cut(k, interval):
        enter, leave = interval
        face, distance = tuple(solid.shape[k, :3]), solid.shape[k, 3]
        slope = dot(face, direction)
        t = (distance - dot(face, origin)) / _safe(slope)
        enter = jnp.where(slope < 0, jnp.maximum(enter, t), enter)
        leave = jnp.where(slope < 0, leave, jnp.minimum(leave, t))
        return enter, leave

    start = jnp.full_like(direction[0], -jnp.inf), jnp.full_like(direction[0], jnp.inf)
    enter, leave = jax.lax.fori_loop(0, solid.parts, cut, start)
    return jnp.where(enter < leave, enter, -1.0)


def hull_normal(solid, p: Vector) -> Vector:
    """Normals of a convex body at local points: those of the half-space that ends closest."""

    def compare(k, best):
        most, normal = best
        face, distance = tuple(solid.shape[k, :3]), solid.shape[k, 3]
        beyond = dot(face, p) - distance
        closer = beyond > most
        normal = tuple(jnp.where(closer, face[i], normal[i]) for i in range(3))
        return jnp.where(closer, beyond, most), normal

    zeros = jnp.zeros_like(p[0])
    _, normal = jax.lax.fori_loop(0, solid.parts, compare, (zeros - jnp.inf, (zeros, zeros, zeros)))
    return normal


def _searched(level: Callable) -> Callable:
    """The intersection with a surface on which `level` of the local points in half sizes is 0."""

    def meet_searched(solid, origin: Vector, direction: Vector, limit: Pixels) -> Pixels:
        """The first change of sign of the level along a ray, within the bounding box."""
        origin, direction = _scaled(solid, origin), _scaled(solid, direction)
        near, far = _slab((1.0, 1.0, 1.0), origin, direction)
        near = jnp.maximum(near, NEAREST)
        crossed = (near < far) & (near < limit)

        def unfinished(state):
            return state[0] <= STEPS + HALVINGS

        def step(state):
            """Samples in equal steps up to the first one inside, then halves the last interval."""
            k, low, high, hit = state
            halving = k > STEPS
            t = jnp.where(
                halving, (low + high) / 2, near + (far - near) * (k.astype(jnp.float32) / STEPS)
            )
            inside = level(solid, at(origin, direction, t)) <= 0
            active = halving | ~hit
            low = jnp.where(active & ~inside, t, low)
            high = jnp.where(active & inside, t, high)
            hit = hit | (inside & ~halving)
            # When all rays are inside, the rest of the samples is left out.
            return jnp.where(~halving & jnp.all(hit), STEPS + 1, k + 1), low, high, hit

        def search():
            start = (jnp.int32(0), near, near, ~crossed)
            _, _, high, hit = jax.lax.while_loop(unfinished, step, start)
            return jnp.where(hit & crossed, high, -1.0)

        return jax.lax.cond(jnp.any(crossed), search, lambda: jnp.full_like(near, -1.0))

    return meet_searched


def _power(x: Pixels, exponent: Float[Array, ""]) -> Pixels:
    """A power of numbers that are not negative; of 0 it is nearly 0."""
    return jnp.exp(exponent * jnp.log(jnp.maximum(x, 1e-30)))


def _signed_power(x: Pixels, exponent: Float[Array, ""]) -> Pixels:
    return jnp.sign(x) * _power(jnp.abs(x), exponent)


def _cone_level(solid, q: Vector) -> Pixels:
    return length(q[0], q[1]) - (q[2] + 1) / 2


def _cone_slope(solid, q: Vector) -> Vector:
    far = jnp.maximum(length(q[0], q[1]), 1e-6)
    return q[0] / far, q[1] / far, jnp.full_like(q[2], -0.5)


def _super_level(solid, q: Vector) -> Pixels:
    e, f = solid.shape[0, 0], solid.shape[0, 1]
    x, y, z = (jnp.abs(part) for part in q)
    return _power(_power(x, e) + _power(y, e), f / e) + _power(z, f) - 1


def _super_slope(solid, q: Vector) -> Vector:
    e, f = solid.shape[0, 0], solid.shape[0, 1]
    inner = _power(jnp.abs(q[0]), e) + _power(jnp.abs(q[1]), e)
    inner = _power(jnp.maximum(inner, 1e-12), f / e - 1)
    return (
        inner * _signed_power(q[0], e - 1),
        inner * _signed_power(q[1], e - 1),
        _signed_power(q[2], f - 1),
    )


def _torus_level(solid, q: Vector) -> Pixels:
    tube = solid.shape[0, 0]  # the box around it is 1 + tube wide and one tube high
    ring = length(q[0], q[1]) * (1 + tube) - 1
    return length(ring, q[2] * tube) - tube


def _torus_slope(solid, q: Vector) -> Vector:
    tube = solid.shape[0, 0]
    far = jnp.maximum(length(q[0], q[1]), 1e-6)
    ring = (far * (1 + tube) - 1) * (1 + tube)
    return ring * q[0] / far, ring * q[1] / far, q[2] * tube * tube


def _bumps_level(solid, q: Vector) -> Pixels:
    x, y = q[0] * solid.half[0], q[1] * solid.half[1]
    total = 0.0
    for k in range(WAVES):
        wave = solid.shape[k]
        total = total + jnp.sin(x * wave[0] + y * wave[1] + wave[2])
    return q[2] - 0.9 / WAVES * total


def _bumps_slope(solid, q: Vector) -> Vector:
    x, y = q[0] * solid.half[0], q[1] * solid.half[1]
    along_x, along_y = 0.0, 0.0
    for k in range(WAVES):
        wave = solid.shape[k]
        cosine = 0.9 / WAVES * jnp.cos(x * wave[0] + y * wave[1] + wave[2])
        along_x = along_x - cosine * wave[0]
        along_y = along_y - cosine * wave[1]
    return along_x * solid.half[0], along_y * solid.half[1], jnp.ones_like(q[2])


def _outline(solid, z: Pixels) -> tuple[Pixels, Pixels]:
    """A vase's radius at a height, as a share of the largest, and how it changes."""
    radius, change = 0.65, 0.0
    for k in range(VASE_WAVES):
        strength, rate, phase = solid.shape[k, 0] / 2, solid.shape[k, 1], solid.shape[k, 2]
        radius = radius + strength * jnp.sin(rate * z + phase)
        change = change + strength * rate * jnp.cos(rate * z + phase)
    return radius, change


def _vase_level(solid, q: Vector) -> Pixels:
    return length(q[0], q[1]) - _outline(solid, q[2])[0]


def _vase_slope(solid, q: Vector) -> Vector:
    far = jnp.maximum(length(q[0], q[1]), 1e-6)
    return q[0] / far, q[1] / far, -_outline(solid, q[2])[1]


def _balls(solid, q: Vector) -> list[tuple[Pixels, Float[Array, ""]]]:
    """What each ball of a blob contributes, and its sharpness.

    The surface is where contributions sum to one half.
    """
    balls = []
    for k in range(BALLS):
        ball = solid.shape[k]
        square = (q[0] - ball[0]) ** 2 + (q[1] - ball[1]) ** 2 + (q[2] - ball[2]) ** 2
        sharpness = 1 / jnp.maximum(ball[3] * ball[3], 1e-12)
        weight = jnp.where(k < solid.parts, jnp.exp(-square * sharpness), 0.0)
        balls.append((weight, sharpness))
    return balls


def _blob_level(solid, q: Vector) -> Pixels:
    return 0.5 - sum(weight for weight, _ in _balls(solid, q))


def _blob_slope(solid, q: Vector) -> Vector:
    slope = [0.0, 0.0, 0.0]
    for k, (weight, sharpness) in enumerate(_balls(solid, q)):
        for i in range(3):
            slope[i] = slope[i] + weight * sharpness * (q[i] - solid.shape[k, i])
    return tuple(slope)


SLOPES = {
    "cone": _cone_slope,
    "super": _super_slope,
    "torus": _torus_slope,
    "bumps": _bumps_slope,
    "vase": _vase_slope,
    "blob": _blob_slope,
}
MEET = {
    "plane": _plane,
    "card": _card,
    "box": _box,
    "ellipsoid": _ellipsoid,
    "cylinder": _cylinder,
    "hull": _hull,
    "cone": _searched(_cone_level),
    "super": _searched(_super_level),
    "torus": _searched(_torus_level),
    "bumps": _searched(_bumps_level),
    "vase": _searched(_vase_level),
    "blob": _searched(_blob_level),
}
KINDS = tuple(MEET)
SEARCHED = tuple(SLOPES)  # kinds that are met by a search along the ray


def meet(kind: str, solid, origin: Vector, direction: Vector, limit: Pixels) -> Pixels:
    """Distance at which local rays enter a solid, in lengths of `direction`; -1 if they miss.

    It may also be -1 beyond the limit.
    """
    if kind in SEARCHED:
        return MEET[kind](solid, origin, direction, limit)
    return MEET[kind](solid, origin, direction)


def _lid(kind: str, solid, p: Vector) -> Bool[Array, "*B"]:
    """Whether points are on a flat end: the base of a cone, both ends of a vase."""
    if kind == "cone":
        return p[2] > solid.half[2] * (1 - 1e-3)
    if kind == "vase":
        return jnp.abs(p[2]) > solid.half[2] * (1 - 1e-3)
    return jnp.zeros(p[2].shape, bool)


def searched_normal(kind: str, solid, p: Vector) -> Vector:
    """Unit normals, of either sign, at local points on a solid of one of the kinds in SEARCHED."""
    slope = SLOPES[kind](solid, _scaled(solid, p))
    slope = _scaled(solid, slope)
    lid = _lid(kind, solid, p)
    x, y = jnp.where(lid, 0.0, slope[0]), jnp.where(lid, 0.0, slope[1])
    return unit((x, y, jnp.where(lid, 1.0, slope[2])))


def unit(v: Vector) -> Vector:
    """The vector at length 1."""
    scale = 1 / jnp.maximum(length(*v), 1e-30)
    return tuple(part * scale for part in v)
