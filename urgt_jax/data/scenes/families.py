"""Families of scenes: where things stand, what is around them, and from where they are seen."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from urgt_jax.data.scenes.builder import FLOORS, UP, WALLS, Builder, sample_palette
from urgt_jax.data.scenes.camera import sample_camera
from urgt_jax.data.scenes.render import Scene
from urgt_jax.data.scenes.shapes_heldout import STRANGE
from urgt_jax.data.scenes.shapes_train import LARGE, SMALL, THIN, tumble
from urgt_jax.data.scenes.shapes_varied import BENT, mound
from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import TABLES, tables

SPLITS = ("train", "varied", "val", "test", "other")
TRAINED = SPLITS[:2]
MOST = 75  # solids besides what is around them, where a scene is fullest


@dataclass
class Stage:
    """What is around the things of a scene, in world axes, and the camera's place in it."""

    around: list[Solid]
    floor: float  # metres below the camera
    near: float  # metres ahead between which things stand
    far: float
    open: bool = False  # under the sky
    things: tuple = ()


def sample_scene(seed: int, split: str = "train") -> Scene:
    """The scene of a seed; splits never share a scene, and `other` shares no shapes with any."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([zlib.crc32(split.encode()), seed])
    kit = Builder(rng, split == "other", sample_palette(rng), split == "varied")
    view = np.radians(rng.uniform(25, 85))
    families = {"other": OTHER, "varied": VARIED}.get(split, FAMILIES)
    stage = families[rng.integers(len(families))](kit)
    turn = _aim(kit, stage, view)
    solids = [*stage.around, *_things(kit, stage, view, turn)]
    return _lighted(kit, stage, [_seen(solid, turn) for solid in solids], view, turn)


def _things(kit: Builder, stage: Stage, view: float, turn: np.ndarray) -> list[Solid]:
    """Things spread over the picture and over depths, some in groups that hide each other."""
    found, place, most = [], None, kit.rng.integers(15, MOST)
    thin = kit.chance(0.4) and not kit.other
    for _ in range(kit.rng.integers(12, 40)):
        if place is None or kit.chance(0.65):
            place = _place(kit, stage, view, turn)
        size = max(place[2], stage.near) * np.tan(view / 2) * kit.among(0.2, 1.2)
        makers = THIN if thin and kit.chance(0.35) else stage.things
        makers = BENT if kit.varied and kit.chance(0.5) else makers
        makers = (tumble,) if kit.chance(0.06) and not kit.other else makers
        shift = np.array([kit.rng.normal(0, 0.5), 0, kit.rng.normal(0, 0.5)]) * size
        made = makers[kit.rng.integers(len(makers))](kit, place + shift, size)
        if kit.chance(0.15):  # hardly to be told from what is behind
            hidden = stage.around[kit.rng.integers(len(stage.around))].look
            made = [replace(solid, look=hidden) for solid in made]
        found += made
        if len(found) > most:
            break
    return found


def _place(kit: Builder, stage: Stage, view: float, turn: np.ndarray) -> np.ndarray:
    """A point of the floor, drawn over the picture or over depths."""
    wide = np.tan(view / 2)
    for _ in range(8 if kit.chance(0.6) else 0):
        ray = turn.T @ np.array([*(kit.rng.uniform(-1, 1, 2) * [1.4 * wide, wide]), 1.0])
        place = ray * stage.floor / max(ray[1], 1e-3)
        if stage.near < place[2] < stage.far:
            return place
    z = kit.among(stage.near, stage.far)
    return np.array([kit.rng.uniform(-1.3, 1.3) * wide * z, stage.floor, z])


def _aim(kit: Builder, stage: Stage, view: float) -> np.ndarray:
    """The camera's turn, by which it looks past a point of the floor."""
    down = np.arctan2(stage.floor, kit.among(stage.near, stage.far) * 1.5)
    return _turn(down + kit.rng.uniform(-0.3, 0.15) * view, kit.rng.normal(0, 0.05))


def _turn(pitch: float, roll: float) -> np.ndarray:
    """From world axes to the camera's, which looks down by `pitch`."""
    c, s = np.cos(pitch), np.sin(pitch)
    down = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(roll), np.sin(roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ down


def _seen(solid: Solid, turn: np.ndarray) -> Solid:
    return replace(solid, centre=turn @ solid.centre, axes=solid.axes @ turn.T)


def _lighted(kit: Builder, stage: Stage, solids: list[Solid], view: float, turn) -> Scene:
    """The scene with lights, fog and a camera."""
    rng, count = kit.rng, int(kit.rng.integers(1, 4))
    lights = rng.normal(size=(count, 3)) * [1, 0.4, 1] + [0, -rng.uniform(0.6, 2), -0.5]
    lights /= np.linalg.norm(lights, axis=-1, keepdims=True)
    ambient = rng.uniform(0.15, 0.7)
    strengths = rng.uniform(0.3, 1, (count, 1)) * (1 + rng.normal(0, 0.1, (count, 3)))
    strengths *= 1.3 * (1 - ambient) / strengths.sum(0).mean()
    blue = rng.uniform([0.45, 0.55, 0.65], [0.85, 0.9, 1.0])
    return Scene(
        solids=tuple(solids),
        view=view,
        lights=lights @ turn.T,
        strengths=strengths,
        ambient=ambient * (1 + rng.normal(0, 0.06, 3)),
        shadow=stage.far * rng.uniform(0.15, 0.4) if kit.chance(0.65) else 0.0,
        sky=np.stack([blue, blue * rng.uniform([0.4, 0.6, 0.8], 1)]),
        haze=kit.among(0.003, 0.06) if kit.chance(0.5 if stage.open else 0.1) else 0.0,
        up=turn @ UP,
        tables=tables(int(rng.integers(TABLES))),
        camera=sample_camera(rng),
    )


def _turned(angle: float, x: float, z: float) -> np.ndarray:
    """A level direction, turned about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * x + s * z, 0.0, c * z - s * x])


def _closed(kit: Builder, floor: float, sides, back: float, angle: float) -> list[Solid]:
    """Floor, ceiling and walls to the left, right and back, turned about the vertical."""
    up = floor - kit.rng.uniform(2.3, 4.0) * max(1.0, floor / 1.6)
    wall = kit.look(3, WALLS)
    found = [
        kit.plane([0, floor, 0], UP, kit.look(2, FLOORS)),
        kit.plane([0, up, 0], -UP, kit.look(3, ("plain", "plain", "tiles", "wood"))),
    ]
    for x, z, far in ((1, 0, sides[0]), (-1, 0, sides[1]), (0, -1, back)):
        normal = _turned(angle, x, z)
        wall = wall if kit.chance(0.7) else kit.look(3, WALLS)
        found.append(kit.plane(-normal * far, normal, wall))
        found += _hung(kit, -normal * far, normal, up, floor)
    return found


def _hung(
    kit: Builder, wall: np.ndarray, normal: np.ndarray, up: float, floor: float
) -> list[Solid]:
    """Pictures, doors and boards on a wall: edges of texture that are hardly edges of depth."""
    side, found = np.cross(normal, UP), []
    axes, reach = np.stack([side, UP, normal]), np.linalg.norm(wall)
    for _ in range(kit.rng.integers(0, 4)):
        half = (floor - up) * kit.rng.uniform([0.06, 0.06, 0.002], [0.25, 0.2, 0.012])
        height = kit.rng.uniform(up + half[1], floor - half[1])
        place = wall + side * kit.rng.uniform(-0.9, 0.9) * reach - UP * height
        look = kit.look(half[0] * 2, ("poster", "poster", "text", "blotches", "plain", "tiles"))
        found.append(kit.box(place, half, axes, look, flat=True))
    return found


def room(kit: Builder) -> Stage:
    """A room with furniture, seen from any corner of it."""
    far, floor = kit.among(3, 12), kit.rng.uniform(0.7, 2.2)
    around = _closed(kit, floor, kit.rng.uniform(1.5, 5, 2), far, kit.rng.uniform(-0.7, 0.7))
    return Stage(around, floor, far * 0.2, far * 0.95, things=LARGE)


def corridor(kit: Builder) -> Stage:
    """A long and narrow room with pillars."""
    far, floor, wide = kit.among(8, 40), kit.rng.uniform(1.0, 1.9), kit.rng.uniform(0.8, 2.2, 2)
    around, angle = _closed(kit, floor, wide, far, 0.0), kit.rng.uniform(-0.12, 0.12)
    around = [_seen(solid, _about(angle)) for solid in around]
    look, gap = kit.look(1), kit.rng.uniform(1.5, 5)
    for k in range(int(kit.rng.integers(0, 5))):
        for x in (-wide[0], wide[1]):
            foot = _about(angle) @ np.array([x * 0.92, floor, gap * (k + 1)])
            around.append(kit.box(foot + UP * 2, [0.12, 2.5, 0.12], _about(angle).T, look))
    return Stage(around, floor, 1.2, far * 0.7, things=LARGE)


def _about(angle: float) -> np.ndarray:
    """A turn about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def tabletop(kit: Builder) -> Stage:
    """Things on a table close to the camera, before a wall, a cloth or nothing."""
    floor, far = kit.rng.uniform(0.15, 0.7), kit.rng.uniform(1.0, 3.0)
    around = [kit.plane([0, floor, 0], UP, kit.look(0.6, FLOORS))]
    if kit.chance(0.5):  # the table ends, and there is a floor below it
        edge = far * kit.rng.uniform(0.6, 0.9)
        half = [kit.rng.uniform(0.8, 2) * far, 0.03, edge]
        table = kit.box([0, floor + 0.03, 0], half, _about(kit.rng.uniform(-0.4, 0.4)))
        around = [table, kit.plane([0, floor + 0.7, 0], UP, kit.look(2, FLOORS))]
    normal = np.array([kit.rng.normal(0, 0.3), 0, -1])
    around.append(kit.plane([0, 0, far * kit.rng.uniform(1, 1.6)], normal, kit.look(1.5, WALLS)))
    around += _hung(kit, np.array([0, 0, far]), np.array([0, 0, -1.0]), -0.5, floor)
    small = (*SMALL, *SMALL, *LARGE)
    return Stage(around, floor, 0.45, far * 0.9, things=small)


def street(kit: Builder) -> Stage:
    """A ground under the sky, with blocks far away."""
    floor, far = kit.rng.uniform(1.0, 4.0), kit.among(10, 45)
    around = [kit.plane([0, floor, 0], UP + kit.rng.normal(0, 0.02, 3), kit.look(4, FLOORS))]
    for _ in range(kit.rng.integers(0, 9)):
        z = kit.rng.uniform(0.6 * far, 70)
        half = z * kit.rng.uniform([0.05, 0.05, 0.05], [0.25, 0.3, 0.1])
        place = np.array([kit.rng.uniform(-1, 1) * z, floor, z]) + UP * half[1]
        around.append(kit.box(place, half, kit.yaw(), kit.look(half[0], WALLS)))
    return Stage(around, floor, 2.0, far, open=True, things=LARGE)


def mounds(kit: Builder) -> Stage:
    """Ground with mounds, small and large, up to far away under the sky."""
    floor, far = kit.rng.uniform(1.0, 4.0), kit.among(8, 45)
    around = [kit.plane([0, floor, 0], UP + kit.rng.normal(0, 0.03, 3), kit.look(4, FLOORS))]
    for _ in range(kit.rng.integers(10, 40)):
        z = kit.among(0.2 * far, 75)
        foot = np.array([kit.rng.uniform(-1.2, 1.2) * z, floor, z])
        found = mound(kit, foot, z * kit.among(0.1, 1.2))
        around += [replace(solid, look=around[0].look) for solid in found if kit.chance(0.8)]
    return Stage(around, floor, 2.0, far, open=True, things=(*LARGE, *BENT))


def valley(kit: Builder) -> Stage:
    """Ground between slopes that meet at edges, under the sky."""
    floor, far = kit.rng.uniform(1.0, 4.0), kit.among(8, 40)
    around = [kit.plane([0, floor, 0], UP, kit.look(4, FLOORS))]
    for _ in range(kit.rng.integers(1, 5)):
        slope = UP + _turned(kit.rng.uniform(-1.6, 1.6), 0, -1) * kit.among(0.1, 1.5)
        foot = np.array([0, floor, kit.among(0.5 * far, 40)])
        look = around[0].look if kit.chance(0.5) else kit.look(4, FLOORS)
        around.append(kit.plane(foot, slope, look))
    return Stage(around, floor, 2.0, far, open=True, things=(*LARGE, *BENT))


def studio(kit: Builder) -> Stage:
    """Bent things close by, before screens that lean."""
    floor, far = kit.rng.uniform(0.2, 1.2), kit.among(1.0, 4.0)
    around = [kit.plane([0, floor, 0], UP, kit.look(1, FLOORS))]
    for _ in range(kit.rng.integers(1, 4)):
        normal = _turned(kit.rng.uniform(-0.8, 0.8), 0, -1) + UP * kit.rng.normal(0, 0.3)
        around.append(kit.plane([0, 0, far * kit.rng.uniform(1.2, 2)], normal, kit.look(2, WALLS)))
    return Stage(around, floor, 0.45, far, things=(*SMALL, *BENT, *BENT))


def hall(kit: Builder) -> Stage:
    """A many-sided hall with steps and strange things."""
    floor, far = kit.rng.uniform(0.8, 2.5), kit.among(4, 14)
    around = [kit.plane([0, floor, 0], UP, kit.look(2)), kit.plane([0, -2.5, 0], -UP, kit.look(3))]
    look = kit.look(3)
    for angle in np.linspace(-1.9, 1.9, 7) + kit.rng.normal(0, 0.1):
        normal = _turned(angle, 0, -1)
        around.append(kit.plane(-normal * far * kit.rng.uniform(0.9, 1.1), normal, look))
    return Stage(around, floor, far * 0.25, far * 0.9, things=STRANGE)


def hills(kit: Builder) -> Stage:
    """Bumpy ground under the sky."""
    floor, far = kit.rng.uniform(1.0, 3.0), kit.among(8, 30)
    bumps = kit.rng.uniform(0.1, 0.35) * floor
    waves = np.stack([*(kit.rng.normal(0, 3 / far, (2, 5))), kit.rng.uniform(0, 6, 5)], -1)
    axes, half = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]]), np.array([120, 120, bumps])
    ground = Solid("bumps", np.array([0, floor, 0]), axes, half, kit.look(4), waves, flat=True)
    return Stage([ground], floor, 2.0, far, open=True, things=STRANGE)


def pedestal(kit: Builder) -> Stage:
    """Strange things close by on a round table, before a wall far behind."""
    floor, far = kit.rng.uniform(0.2, 0.7), kit.rng.uniform(1.0, 2.5)
    top = kit.rod([0, floor, far * 0.6], [0, floor + 0.05, far * 0.6], far * 0.7)
    wall = kit.plane([0, 0, far * 2], [kit.rng.normal(0, 0.4), 0, -1], kit.look(2))
    around = [top, kit.plane([0, floor + 0.9, 0], UP, kit.look(2)), wall]
    return Stage(around, floor, 0.45, far, things=STRANGE)


FAMILIES = (room, room, corridor, tabletop, tabletop, street)
VARIED = (room, corridor, tabletop, street, mounds, mounds, valley, studio, studio)
OTHER = (hall, hills, pedestal)
