"""Ray casting in numpy. Each solid is intersected and shaded in its own window of the image.

It runs in data workers, which must not use an accelerator.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from urgt_jax.data.scenes.camera import Camera, take
from urgt_jax.data.scenes.solids import (
    NEAREST,
    Solid,
    corners,
    local,
    meet,
    meet_rays,
    normals,
    surface,
)
from urgt_jax.data.scenes.textures import Tables, paint

FAR = 80.0  # metres; everything beyond is sky
BAND = 96  # rows that are rendered at a time, so that buffers fit into the cache
FLAT = ("plane", "bumps")  # kinds of ground and walls, which cast no shadow
F = np.float32


@dataclass(frozen=True)
class View:
    """A rendered window of a scene."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # metres along the optical axis, 0 in the sky
    normal: Float[np.ndarray, "h w 3"]  # unit, towards the camera, 0 in the sky
    valid: Bool[np.ndarray, "h w"]
    intrinsics: Float[np.ndarray, "4"]  # fx, fy, cx, cy in pixels, of this window


@dataclass(frozen=True)
class Scene:
    """Solids, light and camera."""

    solids: tuple[Solid, ...]
    view: float  # vertical field of view, radians
    lights: np.ndarray  # [n, 3] unit, towards distant lights
    strengths: np.ndarray  # [n, 3] colours of the lights
    ambient: np.ndarray  # [3] colour of the ambient light
    shadow: float  # length of shadows, metres; 0 is none
    sky: np.ndarray  # [2, 3] colours at the horizon and above
    haze: float  # share of light that fog scatters per metre
    up: np.ndarray  # [3] unit
    tables: Tables
    camera: Camera | None  # None: the image is the light itself


def render(
    scene: Scene,
    height: int,
    width: int,
    window: tuple[int, int, int, int] | None = None,
    workers: int = 1,
) -> View:
    """Renders a scene at a resolution, or the window (top, left, height, width) of that image.

    Only whole images are taken by the camera; the image of a window is the light itself.
    """
    top, left, h, w = window or (0, 0, height, width)
    focal = height / 2 / np.tan(scene.view / 2)
    pinhole = np.array([focal, focal, width / 2 - left, height / 2 - top])
    bands = [(start, min(start + BAND, h)) for start in range(0, h, BAND)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda band: _band(scene, pinhole, band, w), bands))
    image, depth, normal = (np.concatenate([part[i] for part in parts]) for i in range(3))
    if scene.camera is None or window is not None:
        image = (np.clip(image, 0, 1) * 255 + F(0.5)).astype(np.uint8)
    else:
        image = take(scene.camera, image)
    return View(image, depth, normal, depth > 0, pinhole.astype(F))


def _band(scene: Scene, pinhole: np.ndarray, band: tuple[int, int], w: int):
    """Light, depth and normals of some rows."""
    fx, fy, cx, cy = pinhole
    u = ((np.arange(w) + 0.5 - cx) / fx).astype(F)
    v = ((np.arange(*band) + 0.5 - cy) / fy).astype(F)
    ray = np.stack([*np.broadcast_arrays(u[None], v[:, None]), np.ones((len(v), w), F)], -1)
    depth = np.full(ray.shape[:2], FAR, F)
    owner = np.full(ray.shape[:2], -1, np.int16)
    spans = [_span(solid, pinhole, band, w) for solid in scene.solids]
    for number, (solid, span) in enumerate(zip(scene.solids, spans, strict=True)):
        if span is None:
            continue
        t = meet_rays(solid, ray[span])
        nearer = (t > NEAREST) & (t < depth[span])
        depth[span][nearer] = t[nearer]
        owner[span][nearer] = number
    lit = _lit(scene, pinhole, band, ray, depth, owner)
    normal, image = np.zeros_like(ray), np.zeros_like(ray)
    image[owner < 0] = _sky(scene, ray[owner < 0])
    for number, (solid, span) in enumerate(zip(scene.solids, spans, strict=True)):
        if span is None:
            continue
        seen = owner[span] == number
        if seen.any():
            n, colour = _shade(
                scene, solid, ray[span][seen], depth[span][seen], lit[span][seen], fy
            )
            normal[span][seen], image[span][seen] = n, colour
    depth[owner < 0] = 0
    return image, depth, normal


def _span(solid: Solid, pinhole: np.ndarray, band: tuple[int, int], w: int):
    """The rows and columns of a band in which a solid can be seen; None if there are none."""
    everything = (slice(0, band[1] - band[0]), slice(0, w))
    return everything if solid.kind == "plane" else _around(corners(solid), pinhole, band, w)


def _around(points: np.ndarray, pinhole: np.ndarray, band: tuple[int, int], w: int):
    """The rows and columns of a band around the projections of points."""
    if points[:, 2].max() < NEAREST:
        return None
    if points[:, 2].min() < NEAREST:
        return (slice(0, band[1] - band[0]), slice(0, w))
    fx, fy, cx, cy = pinhole
    u = points[:, 0] / points[:, 2] * fx + cx
    v = points[:, 1] / points[:, 2] * fy + cy - band[0]
    rows = max(int(v.min()) - 1, 0), min(int(v.max()) + 2, band[1] - band[0])
    cols = max(int(u.min()) - 1, 0), min(int(u.max()) + 2, w)
    return None if rows[0] >= rows[1] or cols[0] >= cols[1] else (slice(*rows), slice(*cols))


def _lit(scene: Scene, pinhole, band, ray, depth, owner) -> np.ndarray:
    """The pixels that the first light reaches."""
    lit = owner >= 0
    if not scene.shadow:
        return lit
    light, points = scene.lights[0].astype(F), ray * depth[..., None]
    for number, solid in enumerate(scene.solids):
        if solid.kind in FLAT or solid.flat:
            continue
        box = corners(solid)
        span = _around(
            np.concatenate([box, box - light * scene.shadow]), pinhole, band, ray.shape[1]
        )
        if span is None:
            continue
        t = meet(solid, local(solid, points[span]), solid.axes.astype(F) @ light)
        lit[span] &= ~((t > 1e-3) & (t < scene.shadow) & (owner[span] != number))
    return lit


def _sky(scene: Scene, rays: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """A sky with a vertical gradient and clouds."""
    up = rays @ scene.up.astype(F) / np.linalg.norm(rays, axis=-1)
    clouds = scene.tables.noise(rays[:, :2] * F(20), np.full(len(rays), 0.1, F))
    clouds = np.clip(clouds * F(0.4), 0, 1) * np.clip(up * 5, 0, 1)
    share = np.clip(up * 2, 0, 1)[:, None]
    sky = scene.sky.astype(F)
    sky = sky[0] * (1 - share) + sky[1] * share
    return sky + (1 - sky) * clouds[:, None]


def _shade(scene: Scene, solid: Solid, rays, t, lit, focal):
    """Normals and light of the pixels that show a solid."""
    axes = solid.axes.astype(F)
    points = rays * t[:, None]
    place = local(solid, points)
    inward = normals(solid, place)
    n = inward @ axes
    facing = (n * rays).sum(-1)
    n = np.where((facing > 0)[:, None], -n, n)
    slant = np.maximum(np.abs(facing), F(0.05))
    pixel = t / (F(focal) * slant)
    colour = paint(solid.look, scene.tables, surface(solid, place, inward), pixel)
    colour = colour * _light(scene, n, lit)
    if solid.look.gloss:
        colour = colour + _highlight(scene, solid, n, rays, lit)
    if scene.haze:
        haze = (1 - np.exp(-t * F(scene.haze)))[:, None]
        colour = colour * (1 - haze) + scene.sky[0].astype(F) * haze
    return n, colour


def _light(scene: Scene, n: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """The light that falls on surfaces, by colour."""
    cosine = np.maximum(n @ scene.lights.astype(F).T, 0)
    cosine[:, 0] *= lit
    sides = 1 - F(0.2) * (1 - n @ scene.up.astype(F))  # less light comes from below
    return cosine @ scene.strengths.astype(F) + sides[:, None] * scene.ambient.astype(F)


def _highlight(scene: Scene, solid: Solid, n: np.ndarray, rays: np.ndarray, lit) -> np.ndarray:
    """The first light's reflection (Blinn's half vector)."""
    view = -rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    half = view + scene.lights[0].astype(F)
    half /= np.maximum(np.linalg.norm(half, axis=-1, keepdims=True), F(1e-6))
    shine = np.maximum((n * half).sum(-1), 0) ** F(solid.look.power) * lit
    return F(solid.look.gloss) * shine[:, None] * scene.strengths[0].astype(F)
