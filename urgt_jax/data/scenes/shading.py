"""Light, depth and normals of a tile of pixels, compiled."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from urgt_jax.data.scenes.arrays import LIGHTS, SceneArrays, SolidArrays
from urgt_jax.data.scenes.paint import noise, of_pixels, paint
from urgt_jax.data.scenes.rays import (
    KINDS,
    NEAREST,
    SEARCHED,
    Vector,
    at,
    dot,
    hull_normal,
    length,
    local,
    meet,
    searched_normal,
    turned,
    unit,
)
from urgt_jax.data.scenes.tiles import SIDE, Tile

FAR = 80.0  # metres; everything beyond is sky
SHORTEST_SHADOW = 1e-3  # metres; what is nearer than that casts none
ROUND = ("ellipsoid", "torus", "cone", "super", "vase", "blob")


class Hits(NamedTuple):
    """The nearest surface along each ray."""

    distance: Float[Array, "P"]  # in lengths of the ray's direction
    owner: Int[Array, "P"]  # number of the solid; -1 if there is none
    normal: Vector  # in the solid's frame, of kinds for which it is not a simple formula


class Maps(NamedTuple):
    """What a tile shows."""

    light: Float[Array, "*T rows columns 3"]
    depth: Float[Array, "*T rows columns"]  # metres along the optical axis, 0 in the sky
    normal: Float[Array, "*T rows columns 3"]  # unit, towards the camera, 0 in the sky


def render_tile(scene: SceneArrays, tile: Tile) -> Maps:
    """Light, depth and normals of a tile."""
    rays = _rays(tile)
    hits, lit = _cast_all(scene, tile, rays)
    shown = hits.owner >= 0
    normal, light = _shade(scene, tile, rays, hits, lit)
    sky = jax.lax.cond(
        jnp.all(shown), lambda: jax.tree.map(jnp.zeros_like, rays), lambda: _sky(scene, rays)
    )
    return Maps(
        light=_image([jnp.where(shown, *pair) for pair in zip(light, sky, strict=True)]),
        depth=jnp.where(shown, hits.distance, 0.0).reshape(SIDE, SIDE),
        normal=_image([jnp.where(shown, part, 0.0) for part in normal]),
    )


def _image(channels: list[Float[Array, "P"]]) -> Float[Array, "rows columns 3"]:
    return jnp.stack(channels, -1).reshape(SIDE, SIDE, 3)


def _rays(tile: Tile) -> Vector:
    """The directions of the pixels, with length 1 along the optical axis."""
    number = jnp.arange(SIDE * SIDE, dtype=jnp.int32)
    row = number // SIDE + tile.corner[0]
    column = number % SIDE + tile.corner[1]
    focal_x, focal_y, centre_x, centre_y = tile.intrinsics
    x = (column.astype(jnp.float32) + 0.5 - centre_x) / focal_x
    y = (row.astype(jnp.float32) + 0.5 - centre_y) / focal_y
    return x, y, jnp.ones_like(x)


def _cast_all(scene: SceneArrays, tile: Tile, rays: Vector) -> tuple[Hits, Bool[Array, "P"]]:
    """What the camera sees, and whether the first light reaches it.

    Rays from the camera and rays to the light go through one loop, so that the intersections are
    compiled once.
    """
    zeros = jnp.zeros_like(rays[0])
    nothing = Hits(zeros, jnp.full(zeros.shape, -1, jnp.int32), (zeros, zeros, zeros))
    light = tuple(jnp.full_like(zeros, scene.lights[0, i]) for i in range(3))

    def cast(stage, seen_and_casters):
        seen, _ = seen_and_casters
        camera = stage == 0
        points = tuple(part * seen.distance for part in rays)  # at first the camera itself
        direction = tuple(jnp.where(camera, *pair) for pair in zip(rays, light, strict=True))
        limit = jnp.where(camera, FAR, scene.shadow)
        shortest = jnp.where(camera, NEAREST, SHORTEST_SHADOW)
        hits = _cast(scene, tile, stage, points, direction, seen.owner, limit, shortest)
        return jax.tree.map(lambda old, new: jnp.where(camera, new, old), seen, hits), hits

    seen, casters = jax.lax.fori_loop(0, 2, cast, (nothing, nothing))
    lit = casters.owner < 0
    return seen, lit


def _cast(
    scene: SceneArrays,
    tile: Tile,
    stage: Int[Array, ""],
    points: Vector,
    direction: Vector,
    own: Int[Array, "P"],
    limit: Float[Array, ""],
    shortest: Float[Array, ""],
) -> Hits:
    """The nearest solid along rays from points, between two distances, except for the points' own.

    At stage 0 all solids of the tile's first list are tried, at stage 1 those of the second list
    that the rays can meet.
    """
    zeros = jnp.zeros_like(points[0])
    hits = Hits(zeros + limit, jnp.full(zeros.shape, -1, jnp.int32), (zeros, zeros, zeros))
    box = _box_around(points, own)
    solids, starts = _entry(tile.solids, stage), _entry(tile.starts, stage)
    for number, kind in enumerate(KINDS):

        def add(i, hits, kind=kind):
            solid_number = _entry(solids, i)
            solid = jax.tree.map(lambda field: _entry(field, solid_number), scene.solids)

            def meet_solid():
                hit = _meet(kind, solid, solid_number, points, direction, hits)
                nearer = _is_nearer(hit, hits) & (hit.distance > shortest)
                nearer = nearer & (hit.owner != own)
                return jax.tree.map(lambda new, old: jnp.where(nearer, new, old), hit, hits)

            first_direction = tuple(part[0] for part in direction)
            possible = (stage == 0) | _can_meet(solid, box, first_direction, limit)
            return jax.lax.cond(possible, meet_solid, lambda: hits)

        hits = jax.lax.fori_loop(starts[number], starts[number + 1], add, hits)
    return hits


def _entry(field: Array, number: Int[Array, ""]) -> Array:
    """An entry of a field, without checks of the number, which every kind would compile again."""
    return field.at[number].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _meet(kind: str, solid: SolidArrays, number, points: Vector, direction: Vector, hits: Hits):
    """Where rays meet one solid."""
    origin = local(solid, points)
    direction = turned(solid.axes, direction)
    distance = meet(kind, solid, origin, direction, hits.distance)
    normal = hits.normal
    if kind == "hull":
        normal = hull_normal(solid, at(origin, direction, distance))
    if kind in SEARCHED:
        normal = searched_normal(kind, solid, at(origin, direction, distance))
    return Hits(distance, jnp.full_like(hits.owner, number), normal)


def _is_nearer(hits: Hits, others: Hits) -> Bool[Array, "P"]:
    """Whether hits come before others. Of two in one place, the solid with the lower number does.

    So the result does not depend on the order in which solids are tried.
    """
    tie = (hits.distance == others.distance) & (hits.owner < others.owner)
    return (hits.distance < others.distance) | tie


def _box_around(points: Vector, owner: Int[Array, "P"]) -> tuple[Vector, Vector]:
    """Centre and half sizes of the box around the points of solids; the sky is left out."""
    shown = owner >= 0
    low = [jnp.min(jnp.where(shown, part, jnp.inf)) for part in points]
    high = [jnp.max(jnp.where(shown, part, -jnp.inf)) for part in points]
    centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    return centre, tuple((b - a) / 2 for a, b in zip(low, high, strict=True))


def _can_meet(solid: SolidArrays, box: tuple[Vector, Vector], direction: Vector, limit):
    """Whether parallel rays from somewhere in a box can meet the bounding box of a solid."""
    centre, half = box
    centre, sweep = local(solid, centre), turned(solid.axes, direction)
    half = turned(jnp.abs(solid.axes), half)
    possible = True
    for i in range(3):
        reach = (half[i] + solid.half[i]) * 1.001 + 1e-4  # a little more, for rounding
        end = centre[i] + sweep[i] * limit
        low, high = jnp.minimum(centre[i], end), jnp.maximum(centre[i], end)
        possible = possible & (low < reach) & (high > -reach)
    return possible


def _sky(scene: SceneArrays, rays: Vector) -> Vector:
    """A sky with a vertical gradient and clouds."""
    up = dot(tuple(scene.up), rays) / length(*rays)
    clouds = noise(scene.tables, rays[0] * 20, rays[1] * 20, jnp.full_like(rays[0], 0.1))
    clouds = jnp.clip(clouds * 0.4, 0, 1) * jnp.clip(up * 5, 0, 1)
    share = jnp.clip(up * 2, 0, 1)
    colours = []
    for channel in range(3):
        colour = scene.sky[0, channel] * (1 - share) + scene.sky[1, channel] * share
        colours.append(colour + (1 - colour) * clouds)
    return tuple(colours)


def _shade(scene: SceneArrays, tile: Tile, rays: Vector, hits: Hits, lit: Bool[Array, "P"]):
    """Normals and light of the pixels that show a solid."""
    owner = jnp.maximum(hits.owner, 0)
    points = tuple(part * hits.distance for part in rays)
    shown = hits.owner >= 0
    solid = of_pixels(scene.solids, owner)
    place = local(solid, points)
    inward = _normal(solid, hits, place)
    normal = tuple(
        inward[0] * solid.axes[0, i] + inward[1] * solid.axes[1, i] + inward[2] * solid.axes[2, i]
        for i in range(3)
    )
    facing = dot(normal, rays)
    side = jnp.where(facing > 0, -1.0, 1.0)
    normal = tuple(part * side for part in normal)
    slant = jnp.maximum(jnp.abs(facing), 0.05)
    pixel = hits.distance / (tile.intrinsics[1] * slant)
    x, y = _surface(solid, place, inward)
    colour = paint(scene.looks, owner, shown, scene.tables, x, y, pixel)
    received = _light(scene, normal, lit)
    light = tuple(a * b for a, b in zip(colour, received, strict=True))
    light = _add_highlight(scene, owner, normal, rays, lit, light)
    clear = jnp.exp(-hits.distance * scene.haze)
    light = tuple(part * clear + scene.sky[0, i] * (1 - clear) for i, part in enumerate(light))
    return normal, light


def _is(solid: SolidArrays, *kinds: str) -> Bool[Array, "P"]:
    """The pixels that show a solid of one of some kinds."""
    same = False
    for kind in kinds:
        same = same | (solid.kind == KINDS.index(kind))
    return same


def _normal(solid: SolidArrays, hits: Hits, place: Vector) -> Vector:
    """Unit normals in the solid's frame, of either sign, at local points."""
    scaled = tuple(part / solid.half[i] for i, part in enumerate(place))
    size = tuple(jnp.abs(part) for part in scaled)
    on_x = (size[0] >= size[1]) & (size[0] >= size[2])
    on_y = ~on_x & (size[1] >= size[2])
    is_round, is_box = _is(solid, "ellipsoid"), _is(solid, "box")
    is_cylinder = _is(solid, "cylinder")
    side = is_cylinder & (length(scaled[0], scaled[1]) > size[2])
    other = _is(solid, "hull", *SEARCHED)
    x = jnp.where(is_round | side, scaled[0] / solid.half[0], 0.0)
    y = jnp.where(is_round | side, scaled[1] / solid.half[1], 0.0)
    z = jnp.where(is_round, scaled[2] / solid.half[2], jnp.where(side, 0.0, 1.0))
    x = jnp.where(is_box, jnp.where(on_x, 1.0, 0.0), x)
    y = jnp.where(is_box, jnp.where(on_y, 1.0, 0.0), y)
    z = jnp.where(is_box, jnp.where(on_x | on_y, 0.0, 1.0), z)
    normal = unit((x, y, z))
    return tuple(jnp.where(other, *pair) for pair in zip(hits.normal, normal, strict=True))


def _surface(solid: SolidArrays, place: Vector, normal: Vector):
    """Texture coordinates in metres at local points with local normals."""
    size = tuple(jnp.abs(part) for part in normal)
    on_x = (size[0] >= size[1]) & (size[0] >= size[2])
    on_y = ~on_x & (size[1] >= size[2])
    is_cylinder, is_round = _is(solid, "cylinder"), _is(solid, *ROUND)
    end = is_cylinder & (size[2] >= 0.5)
    face = jnp.where(on_x, 0.0, jnp.where(on_y, 1.0, 2.0))
    shift = jnp.where(_is(solid, "box"), 3.7 * solid.half[0] * face, 0.0)
    flat_x = jnp.where(on_x & ~end, place[1], place[0]) + shift
    flat_y = jnp.where((on_x | on_y) & ~end, place[2], place[1]) + shift

    def around():
        angle = jnp.arctan2(place[1], place[0]) * solid.half[0]
        height = jnp.arcsin(jnp.clip(normal[2], -1, 1)) * solid.half[2]
        bent = is_round | (is_cylinder & ~end)
        x = jnp.where(bent, angle, flat_x)
        return x, jnp.where(is_round, height, jnp.where(bent, place[2], flat_y))

    return jax.lax.cond(jnp.any(is_round | is_cylinder), around, lambda: (flat_x, flat_y))


def _light(scene: SceneArrays, normal: Vector, lit: Bool[Array, "P"]) -> Vector:
    """The light that falls on surfaces, by colour."""
    cosines = [jnp.maximum(dot(tuple(scene.lights[k]), normal), 0) for k in range(LIGHTS)]
    cosines[0] = jnp.where(lit, cosines[0], 0.0)
    sides = 1 - 0.2 * (1 - dot(tuple(scene.up), normal))  # less light comes from below
    received = []
    for channel in range(3):
        total = sides * scene.ambient[channel]
        for k in range(LIGHTS):
            total = total + cosines[k] * scene.strengths[k, channel]
        received.append(total)
    return tuple(received)


def _add_highlight(scene: SceneArrays, owner, normal: Vector, rays: Vector, lit, light: Vector):
    """The light with the first light's reflection (Blinn's half vector)."""
    gloss = of_pixels(scene.looks.gloss, owner)

    def shine():
        power = of_pixels(scene.looks.power, owner)
        towards = unit(rays)
        half = unit(tuple(scene.lights[0, i] - towards[i] for i in range(3)))
        cosine = jnp.maximum(dot(normal, half), 1e-12)
        strength = jnp.where(lit, gloss * jnp.exp(power * jnp.log(cosine)), 0.0)
        return tuple(part + strength * scene.strengths[0, i] for i, part in enumerate(light))

    return jax.lax.cond(jnp.any(gloss > 0), shine, lambda: light)
