"""Analytic scenes: textured, lit solids with exact depth and normals at any resolution.

Ray casting is numpy, since it runs in data workers that must not touch an accelerator, and since
only there can each solid be met in its own window of the picture.
"""

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "val", "test")
FAR = 80.0  # metres; beyond is sky
BAND = 96  # rows that are rendered at a time, so that buffers stay in the cache
TILE = 64  # side of the noise table
F = np.float32


@dataclass(frozen=True)
class View:
    """A rendered window of a scene."""

    image: np.ndarray  # uint8 [h, w, 3]
    depth: np.ndarray  # float32 [h, w], metres along the optical axis, 0 in the sky
    normal: np.ndarray  # float32 [h, w, 3], unit, towards the camera, 0 in the sky
    valid: np.ndarray  # bool [h, w]
    intrinsics: np.ndarray  # float32 [4], fx, fy, cx, cy in pixels, of this window


@dataclass(frozen=True)
class Look:
    """Colour and texture of a solid."""

    colour: np.ndarray  # [3]
    spread: np.ndarray  # [3, 2] from points in metres to texture coordinates
    noise: float  # strength of the noise
    pattern: float  # strength of stripes or checks
    checks: bool
    shift: float


@dataclass(frozen=True)
class Solid:
    """A plane, sphere, box or cylinder in camera coordinates."""

    kind: str
    centre: np.ndarray  # [3] metres; a plane's point
    axes: np.ndarray  # [3, 3] rows: local axes; a plane's normal and a cylinder's axis come last
    half: np.ndarray  # [3] half sizes in metres; a sphere's radius, a cylinder's radius and length
    look: Look


@dataclass(frozen=True)
class Scene:
    """Solids, light and camera."""

    solids: tuple[Solid, ...]
    view: float  # vertical field of view, radians
    light: np.ndarray  # [3] unit, towards the light
    ambient: float
    sky: np.ndarray  # [3] colour
    tile: np.ndarray  # [TILE, TILE] noise


def sample_scene(seed: int, split: str = "train") -> Scene:
    """The scene of a seed; splits never share a scene."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([zlib.crc32(split.encode()), seed])
    room = rng.random() < 0.65
    far = rng.uniform(5, 15) if room else 25.0
    things = _things(rng, far)
    light = rng.normal(size=3) + np.array([0, -1.5, -1.0])
    return Scene(
        solids=(*_walls(rng, room, far), *things),
        view=np.radians(rng.uniform(40, 75)),
        light=(light / np.linalg.norm(light)).astype(F),
        ambient=rng.uniform(0.3, 0.6),
        sky=rng.uniform([0.5, 0.6, 0.7], [0.8, 0.9, 1.0]).astype(F),
        tile=rng.uniform(-1, 1, (TILE, TILE)).astype(F),
    )


def _look(rng: np.random.Generator, size: float) -> Look:
    grain = np.exp(rng.uniform(np.log(0.7), np.log(6))) / size
    return Look(
        colour=rng.uniform(0.12, 0.95, 3).astype(F),
        spread=(rng.normal(size=(3, 2)) * grain).astype(F),
        noise=rng.uniform(0.03, 0.2),
        pattern=rng.uniform(0, 0.25) * (rng.random() < 0.4),
        checks=bool(rng.random() < 0.5),
        shift=rng.uniform(0, TILE),
    )


def _plane(rng, normal, point, size: float) -> Solid:
    normal = np.array(normal) + rng.normal(0, 0.05, 3)
    axes = np.stack([normal, normal, normal / np.linalg.norm(normal)])
    return Solid("plane", np.array(point, float), axes, np.ones(3), _look(rng, size))


def _walls(rng: np.random.Generator, room: bool, far: float) -> list[Solid]:
    height = rng.uniform(1.0, 2.5)
    walls = [_plane(rng, (0, -1, 0.15 * rng.normal()), (0, height, 0), 2.0)]
    if room or rng.random() < 0.5:
        walls.append(_plane(rng, (0.3 * rng.normal(), 0, -1), (0, 0, far), 3.0))
    if room:
        side = rng.uniform(2.5, 7, 2)
        walls.append(_plane(rng, (1, 0, 0), (-side[0], 0, 0), 3.0))
        walls.append(_plane(rng, (-1, 0, 0), (side[1], 0, 0), 3.0))
        walls.append(_plane(rng, (0, 1, 0), (0, -rng.uniform(2, 4), 0), 3.0))
    return walls


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q


def _things(rng: np.random.Generator, far: float) -> list[Solid]:
    """Solids at all depths, spread over the picture."""
    makers = (_box, _box, _box, _sphere, _sphere, _pole, _wire, _fence)
    found: list[Solid] = []
    for _ in range(rng.integers(8, 16)):
        z = np.exp(rng.uniform(np.log(1.8), np.log(far * 0.95)))
        place = z * np.array([rng.uniform(-1.1, 1.1), rng.uniform(-0.6, 0.6), 1.0])
        found += makers[rng.integers(len(makers))](rng, place, z)
    return found


def _box(rng, place, z) -> list[Solid]:
    half = z * rng.uniform(0.05, 0.2, 3)
    return [Solid("box", place, _rotation(rng), half, _look(rng, half.max()))]


def _sphere(rng, place, z) -> list[Solid]:
    radius = z * rng.uniform(0.05, 0.2)
    return [Solid("sphere", place, np.eye(3), np.full(3, radius), _look(rng, radius))]


def _axes(axis: np.ndarray) -> np.ndarray:
    axis = axis / np.linalg.norm(axis)
    return np.stack([axis, axis, axis])


def _pole(rng, place, z) -> list[Solid]:
    axis = np.array([0.25 * rng.normal(), 1, 0.25 * rng.normal()])
    half = np.array([z * rng.uniform(0.006, 0.025), 0, z * rng.uniform(0.15, 0.8)])
    return [Solid("cylinder", place, _axes(axis), half, _look(rng, half[2]))]


def _wire(rng, place, z) -> list[Solid]:
    axis = np.array([1, 0.3 * rng.normal(), 0.3 * rng.normal()])
    half = np.array([z * rng.uniform(0.003, 0.008), 0, z * rng.uniform(0.2, 0.6)])
    return [Solid("cylinder", place, _axes(axis), half, _look(rng, half[2]))]


def _fence(rng, place, z) -> list[Solid]:
    axes, gap = _rotation(rng), z * rng.uniform(0.04, 0.08)
    half = np.array([gap * rng.uniform(0.1, 0.3), z * rng.uniform(0.1, 0.3), gap * 0.1])
    look, count = _look(rng, half[1]), int(rng.integers(3, 8))
    return [
        Solid("box", place + axes[0] * gap * (i - count / 2), axes, half, look)
        for i in range(count)
    ]


def render(
    scene: Scene,
    height: int,
    width: int,
    window: tuple[int, int, int, int] | None = None,
    workers: int = 1,
) -> View:
    """The scene at a resolution, or the window (top, left, height, width) of that picture."""
    top, left, h, w = window or (0, 0, height, width)
    focal = height / 2 / np.tan(scene.view / 2)
    camera = np.array([focal, focal, width / 2 - left, height / 2 - top])
    bands = [(start, min(start + BAND, h)) for start in range(0, h, BAND)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda band: _band(scene, camera, band, w), bands))
    image, depth, normal = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return View(image, depth, normal, depth > 0, camera.astype(F))


def _band(scene: Scene, camera: np.ndarray, band: tuple[int, int], w: int):
    """Image, depth and normals of some rows."""
    fx, fy, cx, cy = camera
    u = ((np.arange(w) + 0.5 - cx) / fx).astype(F)
    v = ((np.arange(*band) + 0.5 - cy) / fy).astype(F)
    ray = np.stack([*np.broadcast_arrays(u[None], v[:, None]), np.ones((len(v), w), F)], -1)
    depth = np.full(ray.shape[:2], FAR, F)
    owner = np.full(ray.shape[:2], -1, np.int16)
    spans = [_span(solid, camera, band, w) for solid in scene.solids]
    for number, (solid, span) in enumerate(zip(scene.solids, spans, strict=True)):
        if span is None:
            continue
        t = MEET[solid.kind](solid, ray[span])
        nearer = (t > 0.05) & (t < depth[span])
        depth[span][nearer] = t[nearer]
        owner[span][nearer] = number
    normal = np.zeros_like(ray)
    image = np.broadcast_to(scene.sky, ray.shape).copy()
    for number, (solid, span) in enumerate(zip(scene.solids, spans, strict=True)):
        if span is None:
            continue
        seen = owner[span] == number
        if seen.any():
            _paint(scene, solid, ray[span], depth[span], seen, normal[span], image[span], fy)
    depth[owner < 0] = 0
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), depth, normal


def _span(solid: Solid, camera: np.ndarray, band: tuple[int, int], w: int):
    """The rows and columns of a band that a solid can be seen in; None where it cannot."""
    everything = (slice(0, band[1] - band[0]), slice(0, w))
    if solid.kind == "plane":
        return everything
    corners = _corners(solid)
    if corners[:, 2].min() < 0.05:
        return everything
    fx, fy, cx, cy = camera
    u = corners[:, 0] / corners[:, 2] * fx + cx
    v = corners[:, 1] / corners[:, 2] * fy + cy - band[0]
    rows = max(int(v.min()) - 1, 0), min(int(v.max()) + 2, band[1] - band[0])
    cols = max(int(u.min()) - 1, 0), min(int(u.max()) + 2, w)
    return None if rows[0] >= rows[1] or cols[0] >= cols[1] else (slice(*rows), slice(*cols))


def _corners(solid: Solid) -> np.ndarray:
    """[8+, 3] corners of a box around the solid."""
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, 8).T
    if solid.kind == "box":
        return solid.centre + (signs * solid.half) @ solid.axes
    around = signs * solid.half[0]
    if solid.kind == "sphere":
        return solid.centre + around
    ends = solid.centre + np.array([[-1], [1]]) * solid.axes[2] * solid.half[2]
    return (ends[:, None] + around).reshape(-1, 3)


def _meet_plane(solid: Solid, ray: np.ndarray) -> np.ndarray:
    slope = ray @ solid.axes[2].astype(F)
    distance = F(solid.axes[2] @ solid.centre)
    return np.where(np.abs(slope) > 1e-6, distance / np.where(slope == 0, 1, slope), -1)


def _meet_round(solid: Solid, ray: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The first point at radius half[0] from a centre, from the closest approach outwards."""
    square = (ray * ray).sum(-1)
    near = (ray @ centre) / square
    miss = centre - ray * near[..., None]
    left = F(solid.half[0]) ** 2 - (miss * miss).sum(-1)
    return np.where(left > 0, near - np.sqrt(np.maximum(left, 0) / square), -1)


def _meet_sphere(solid: Solid, ray: np.ndarray) -> np.ndarray:
    return _meet_round(solid, ray, solid.centre.astype(F))


def _meet_cylinder(solid: Solid, ray: np.ndarray) -> np.ndarray:
    axis = solid.axes[2].astype(F)
    along = ray @ axis
    centre = (solid.centre - solid.axes[2] * (solid.centre @ solid.axes[2])).astype(F)
    t = _meet_round(solid, ray - along[..., None] * axis, centre)
    height = t * along - F(solid.centre @ solid.axes[2])
    return np.where(np.abs(height) < solid.half[2], t, -1)


def _meet_box(solid: Solid, ray: np.ndarray) -> np.ndarray:
    axes, half = solid.axes.astype(F), solid.half.astype(F)
    slope = ray @ axes.T
    slope = np.where(np.abs(slope) < 1e-9, F(1e-9), slope)
    middle = axes @ solid.centre.astype(F)
    one, two = (middle - half) / slope, (middle + half) / slope
    enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
    return np.where(enter < leave, enter, -1)


MEET = {
    "plane": _meet_plane, "sphere": _meet_sphere, "box": _meet_box, "cylinder": _meet_cylinder,
}  # fmt: skip


def _normals(solid: Solid, points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Unit normals at points on the solid, towards the camera."""
    if solid.kind == "plane":
        out = np.broadcast_to(solid.axes[2].astype(F), points.shape)
    elif solid.kind == "box":
        local = (points - solid.centre.astype(F)) @ solid.axes.astype(F).T / solid.half.astype(F)
        out = solid.axes.astype(F)[np.abs(local).argmax(-1)]
    else:
        out = points - solid.centre.astype(F)
        if solid.kind == "cylinder":
            axis = solid.axes[2].astype(F)
            out = out - (out @ axis)[..., None] * axis
        out = out / np.linalg.norm(out, axis=-1, keepdims=True)
    away = (out * rays).sum(-1, keepdims=True) > 0
    return np.where(away, -out, out)


def _paint(scene, solid, ray, depth, seen, normal, image, focal) -> None:
    """Writes normals and colours of the pixels in which a solid is seen."""
    rays, t = ray[seen], depth[seen]
    points = rays * t[:, None]
    n = _normals(solid, points, rays)
    slant = np.maximum(-(n * rays).sum(-1), 0.05)
    pattern = _texture(solid.look, scene.tile, points, t / (F(focal) * slant))
    light = F(scene.ambient) + F(1 - scene.ambient) * np.maximum(n @ scene.light, 0)
    colour = solid.look.colour * ((1 + pattern) * light)[:, None]
    haze = (1 - np.exp(-t / F(60)))[:, None]
    normal[seen] = n
    image[seen] = colour * (1 - haze) + scene.sky * haze


def _texture(look: Look, tile: np.ndarray, points: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Relative brightness at points; what is finer than a pixel (in metres) fades out."""
    place = points @ look.spread + F(look.shift)
    fine = pixel * F(np.abs(look.spread).sum(0).max())
    total = np.zeros_like(pixel)
    for octave in range(3):
        scale = F(2.0**octave)
        fade = np.clip(1.5 - fine * scale * 2, 0, 1)
        if fade.any():
            total += F(look.noise / scale**0.5) * fade * _noise(tile, place * scale)
    if look.pattern:
        wave = np.sin(place[:, 0] * F(3.1))
        wave = wave * np.sin(place[:, 1] * F(3.1)) if look.checks else wave
        total += F(look.pattern) * np.clip(1.5 - fine * 2, 0, 1) * np.clip(wave * 4, -1, 1)
    return np.clip(total, -0.9, 2)


def _noise(tile: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Noise of a periodic table, smoothly interpolated."""
    base = np.floor(place)
    part = place - base
    part = part * part * (3 - 2 * part)
    i, j = (base.astype(np.int32) % TILE).T
    k, m = (i + 1) % TILE, (j + 1) % TILE
    a, b = part.T
    return (tile[i, j] * (1 - a) + tile[k, j] * a) * (1 - b) + (
        tile[i, m] * (1 - a) + tile[k, m] * a
    ) * b
