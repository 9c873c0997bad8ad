"""Families of scenes: surroundings, placement of shapes, and the camera."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from urgt_jax.data.scenes.builder import FLOORS, UP, WALLS, Builder, sample_palette
from urgt_jax.data.scenes.camera import sample_camera
from urgt_jax.data.scenes.rays import WAVES
from urgt_jax.data.scenes.scene import Scene
from urgt_jax.data.scenes.shapes_heldout import HELDOUT
from urgt_jax.data.scenes.shapes_train import LARGE, SMALL, THIN, tumble
from urgt_jax.data.scenes.shapes_varied import BENT, mound
from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import TABLES, tables

SPLITS = ("train", "varied", "val", "test", "other")
TRAINED = SPLITS[:2]
# Besides the number of a scene, the seed of the draws that degrade its maps. Those of `train` and
# `other` are the same; their scenes are not. No value changes: scores in the docs depend on them.
DEGRADATION_SEEDS = {"train": 5, "varied": 6, "val": 3, "test": 4, "other": 5}
MOST = 75  # upper limit of the solids in a scene, without its surroundings


@dataclass
class Stage:
    """The surroundings of a scene in world axes, and where its shapes are placed."""

    surroundings: list[Solid]
    floor: float  # depth of the floor below the camera, metres
    near: float  # shapes are placed from this distance, metres
    far: float  # to this distance, metres
    open: bool = False  # whether there is a sky
    shapes: tuple = ()  # functions that draw a shape


def sample_scene(seed: int, split: str = "train") -> Scene:
    """The scene of a seed. Splits share no scene, and `other` shares no shape with the others."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([zlib.crc32(split.encode()), seed])
    builder = Builder(rng, split == "other", sample_palette(rng), split == "varied")
    view = np.radians(rng.uniform(25, 85))
    families = {"other": OTHER, "varied": VARIED}.get(split, FAMILIES)
    stage = families[rng.integers(len(families))](builder)
    rotation = _aim(builder, stage, view)
    solids = [*stage.surroundings, *_things(builder, stage, view, rotation)]
    return _light(builder, stage, [_rotated(solid, rotation) for solid in solids], view, rotation)


def _things(builder: Builder, stage: Stage, view: float, rotation: np.ndarray) -> list[Solid]:
    """Shapes spread over the image and over depths, some in groups that occlude each other."""
    most = builder.rng.integers(15, MOST)
    thin = builder.chance(0.4) and not builder.other
    place = None
    solids = []
    for _ in range(builder.rng.integers(12, 40)):
        if place is None or builder.chance(0.65):
            place = _place(builder, stage, view, rotation)
        size = max(place[2], stage.near) * np.tan(view / 2) * builder.log_uniform(0.2, 1.2)
        shapes = stage.shapes
        if thin and builder.chance(0.35):
            shapes = THIN
        if builder.varied and builder.chance(0.5):
            shapes = BENT
        if builder.chance(0.06) and not builder.other:  # drawn in every split
            shapes = (tumble,)
        shift = np.array([builder.rng.normal(0, 0.5), 0, builder.rng.normal(0, 0.5)]) * size
        shape = shapes[builder.rng.integers(len(shapes))]
        added = shape(builder, place + shift, size)
        if builder.chance(0.15):  # hard to distinguish from the background
            hidden = stage.surroundings[builder.rng.integers(len(stage.surroundings))].look
            added = [replace(solid, look=hidden) for solid in added]
        solids += added
        if len(solids) > most:
            break
    return solids


def _place(builder: Builder, stage: Stage, view: float, rotation: np.ndarray) -> np.ndarray:
    """A point on the floor, uniform over the image or over depths."""
    wide = np.tan(view / 2)
    if builder.chance(0.6):
        for _ in range(8):
            x, y = builder.rng.uniform(-1, 1, 2) * [1.4 * wide, wide]
            ray = rotation.T @ np.array([x, y, 1.0])
            place = ray * stage.floor / max(ray[1], 1e-3)
            if stage.near < place[2] < stage.far:
                return place
    z = builder.log_uniform(stage.near, stage.far)
    return np.array([builder.rng.uniform(-1.3, 1.3) * wide * z, stage.floor, z])


def _aim(builder: Builder, stage: Stage, view: float) -> np.ndarray:
    """The rotation of a camera that looks past a point on the floor."""
    down = np.arctan2(stage.floor, builder.log_uniform(stage.near, stage.far) * 1.5)
    pitch = down + builder.rng.uniform(-0.3, 0.15) * view
    return _camera_rotation(pitch, roll=builder.rng.normal(0, 0.05))


def _camera_rotation(pitch: float, roll: float) -> np.ndarray:
    """The rotation from world axes to a camera that looks down by `pitch`."""
    c, s = np.cos(pitch), np.sin(pitch)
    down = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(roll), np.sin(roll)
    lean = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return lean @ down


def _rotated(solid: Solid, rotation: np.ndarray) -> Solid:
    return replace(solid, centre=rotation @ solid.centre, axes=solid.axes @ rotation.T)


def _light(builder: Builder, stage: Stage, solids: list[Solid], view: float, rotation) -> Scene:
    """The scene with lights, fog and a camera."""
    rng = builder.rng
    count = int(rng.integers(1, 4))
    lights = rng.normal(size=(count, 3)) * [1, 0.4, 1] + [0, -rng.uniform(0.6, 2), -0.5]
    lights /= np.linalg.norm(lights, axis=-1, keepdims=True)
    ambient = rng.uniform(0.15, 0.7)
    strengths = rng.uniform(0.3, 1, (count, 1)) * (1 + rng.normal(0, 0.1, (count, 3)))
    strengths *= 1.3 * (1 - ambient) / strengths.sum(0).mean()
    blue = rng.uniform([0.45, 0.55, 0.65], [0.85, 0.9, 1.0])
    return Scene(
        solids=tuple(solids),
        view=view,
        lights=lights @ rotation.T,
        strengths=strengths,
        ambient=ambient * (1 + rng.normal(0, 0.06, 3)),
        shadow=stage.far * rng.uniform(0.15, 0.4) if builder.chance(0.65) else 0.0,
        sky=np.stack([blue, blue * rng.uniform([0.4, 0.6, 0.8], 1)]),
        haze=_haze(builder, stage),
        up=rotation @ UP,
        tables=tables(int(rng.integers(TABLES))),
        camera=sample_camera(rng),
    )


def _haze(builder: Builder, stage: Stage) -> float:
    """The strength of fog, which is more frequent outdoors; 0 is none."""
    if builder.chance(0.5 if stage.open else 0.1):
        return builder.log_uniform(0.003, 0.06)
    return 0.0


def _level_direction(angle: float, x: float, z: float) -> np.ndarray:
    """A horizontal direction, rotated about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * x + s * z, 0.0, c * z - s * x])


def _walls(builder: Builder, floor: float, sides, back: float, angle: float) -> list[Solid]:
    """Floor, ceiling and walls to the left, right and back, rotated about the vertical."""
    ceiling = floor - builder.rng.uniform(2.3, 4.0) * max(1.0, floor / 1.6)  # y points down
    wall = builder.look(3, WALLS)
    solids = [
        builder.plane([0, floor, 0], UP, builder.look(2, FLOORS)),
        builder.plane([0, ceiling, 0], -UP, builder.look(3, ("plain", "plain", "tiles", "wood"))),
    ]
    for x, z, far in ((1, 0, sides[0]), (-1, 0, sides[1]), (0, -1, back)):
        normal = _level_direction(angle, x, z)
        if not builder.chance(0.7):
            wall = builder.look(3, WALLS)
        solids.append(builder.plane(-normal * far, normal, wall))
        solids += _wall_decorations(builder, -normal * far, normal, ceiling, floor)
    return solids


def _wall_decorations(
    builder: Builder, wall: np.ndarray, normal: np.ndarray, ceiling: float, floor: float
) -> list[Solid]:
    """Posters, doors and boards on a wall: strong edges of texture, weak edges of depth."""
    side = np.cross(normal, UP)
    axes = np.stack([side, UP, normal])
    reach = np.linalg.norm(wall)
    boxes = []
    for _ in range(builder.rng.integers(0, 4)):
        half = (floor - ceiling) * builder.rng.uniform([0.06, 0.06, 0.002], [0.25, 0.2, 0.012])
        y = builder.rng.uniform(ceiling + half[1], floor - half[1])
        place = wall + side * builder.rng.uniform(-0.9, 0.9) * reach - UP * y
        look = builder.look(half[0] * 2, ("poster", "poster", "text", "blotches", "plain", "tiles"))
        boxes.append(builder.box(place, half, axes, look, casts_shadow=False))
    return boxes


def room(builder: Builder) -> Stage:
    """A room with furniture."""
    far = builder.log_uniform(3, 12)
    floor = builder.rng.uniform(0.7, 2.2)
    sides = builder.rng.uniform(1.5, 5, 2)
    angle = builder.rng.uniform(-0.7, 0.7)
    surroundings = _walls(builder, floor, sides, far, angle)
    return Stage(surroundings, floor, far * 0.2, far * 0.95, shapes=LARGE)


def corridor(builder: Builder) -> Stage:
    """A long and narrow room with pillars."""
    far = builder.log_uniform(8, 40)
    floor = builder.rng.uniform(1.0, 1.9)
    sides = builder.rng.uniform(0.8, 2.2, 2)
    walls = _walls(builder, floor, sides, far, 0.0)
    rotation = _rotation_about_vertical(builder.rng.uniform(-0.12, 0.12))
    surroundings = [_rotated(solid, rotation) for solid in walls]
    look = builder.look(1)
    gap = builder.rng.uniform(1.5, 5)
    for k in range(int(builder.rng.integers(0, 5))):
        for x in (-sides[0], sides[1]):
            foot = rotation @ np.array([x * 0.92, floor, gap * (k + 1)])
            surroundings.append(builder.box(foot + UP * 2, [0.12, 2.5, 0.12], rotation.T, look))
    return Stage(surroundings, floor, 1.2, far * 0.7, shapes=LARGE)


def _rotation_about_vertical(angle: float) -> np.ndarray:
    """A rotation about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def tabletop(builder: Builder) -> Stage:
    """Shapes on a table close to the camera, in front of a wall."""
    floor = builder.rng.uniform(0.15, 0.7)
    far = builder.rng.uniform(1.0, 3.0)
    surroundings = [builder.plane([0, floor, 0], UP, builder.look(0.6, FLOORS))]
    if builder.chance(0.5):  # the table ends, and there is a floor below it
        edge = far * builder.rng.uniform(0.6, 0.9)
        half = [builder.rng.uniform(0.8, 2) * far, 0.03, edge]
        axes = _rotation_about_vertical(builder.rng.uniform(-0.4, 0.4))
        table = builder.box([0, floor + 0.03, 0], half, axes)
        surroundings = [table, builder.plane([0, floor + 0.7, 0], UP, builder.look(2, FLOORS))]
    normal = np.array([builder.rng.normal(0, 0.3), 0, -1])
    wall = [0, 0, far * builder.rng.uniform(1, 1.6)]
    surroundings.append(builder.plane(wall, normal, builder.look(1.5, WALLS)))
    # Not on the wall, which is farther away and turned: these boards float, or are hidden by it.
    # They stay, since scores in the docs depend on them.
    surroundings += _wall_decorations(
        builder, np.array([0, 0, far]), np.array([0, 0, -1.0]), -0.5, floor
    )
    return Stage(surroundings, floor, 0.45, far * 0.9, shapes=(*SMALL, *SMALL, *LARGE))


def street(builder: Builder) -> Stage:
    """Ground under the sky, with blocks far away."""
    floor = builder.rng.uniform(1.0, 4.0)
    far = builder.log_uniform(10, 45)
    normal = UP + builder.rng.normal(0, 0.02, 3)
    surroundings = [builder.plane([0, floor, 0], normal, builder.look(4, FLOORS))]
    for _ in range(builder.rng.integers(0, 9)):
        z = builder.rng.uniform(0.6 * far, 70)
        half = z * builder.rng.uniform([0.05, 0.05, 0.05], [0.25, 0.3, 0.1])
        place = np.array([builder.rng.uniform(-1, 1) * z, floor, z]) + UP * half[1]
        axes = builder.upright_axes()
        surroundings.append(builder.box(place, half, axes, builder.look(half[0], WALLS)))
    return Stage(surroundings, floor, 2.0, far, open=True, shapes=LARGE)


def mounds(builder: Builder) -> Stage:
    """Ground with mounds, small and large, up to far away under the sky."""
    floor = builder.rng.uniform(1.0, 4.0)
    far = builder.log_uniform(8, 45)
    normal = UP + builder.rng.normal(0, 0.03, 3)
    surroundings = [builder.plane([0, floor, 0], normal, builder.look(4, FLOORS))]
    for _ in range(builder.rng.integers(10, 40)):
        z = builder.log_uniform(0.2 * far, 75)
        foot = np.array([builder.rng.uniform(-1.2, 1.2) * z, floor, z])
        for solid in mound(builder, foot, z * builder.log_uniform(0.1, 1.2)):
            if builder.chance(0.8):
                surroundings.append(replace(solid, look=surroundings[0].look))
    return Stage(surroundings, floor, 2.0, far, open=True, shapes=(*LARGE, *BENT))


def valley(builder: Builder) -> Stage:
    """Ground between slopes that meet at edges, under the sky."""
    floor = builder.rng.uniform(1.0, 4.0)
    far = builder.log_uniform(8, 40)
    surroundings = [builder.plane([0, floor, 0], UP, builder.look(4, FLOORS))]
    for _ in range(builder.rng.integers(1, 5)):
        direction = _level_direction(builder.rng.uniform(-1.6, 1.6), 0, -1)
        slope = UP + direction * builder.log_uniform(0.1, 1.5)
        foot = np.array([0, floor, builder.log_uniform(0.5 * far, 40)])
        look = surroundings[0].look if builder.chance(0.5) else builder.look(4, FLOORS)
        surroundings.append(builder.plane(foot, slope, look))
    return Stage(surroundings, floor, 2.0, far, open=True, shapes=(*LARGE, *BENT))


def studio(builder: Builder) -> Stage:
    """Bent shapes close to the camera, in front of leaning screens."""
    floor = builder.rng.uniform(0.2, 1.2)
    far = builder.log_uniform(1.0, 4.0)
    surroundings = [builder.plane([0, floor, 0], UP, builder.look(1, FLOORS))]
    for _ in range(builder.rng.integers(1, 4)):
        direction = _level_direction(builder.rng.uniform(-0.8, 0.8), 0, -1)
        normal = direction + UP * builder.rng.normal(0, 0.3)
        screen = [0, 0, far * builder.rng.uniform(1.2, 2)]
        surroundings.append(builder.plane(screen, normal, builder.look(2, WALLS)))
    return Stage(surroundings, floor, 0.45, far, shapes=(*SMALL, *BENT, *BENT))


def hall(builder: Builder) -> Stage:
    """A many-sided hall with held-out shapes."""
    floor = builder.rng.uniform(0.8, 2.5)
    far = builder.log_uniform(4, 14)
    surroundings = [
        builder.plane([0, floor, 0], UP, builder.look(2)),
        builder.plane([0, -2.5, 0], -UP, builder.look(3)),
    ]
    look = builder.look(3)
    for angle in np.linspace(-1.9, 1.9, 7) + builder.rng.normal(0, 0.1):
        normal = _level_direction(angle, 0, -1)
        wall = -normal * far * builder.rng.uniform(0.9, 1.1)
        surroundings.append(builder.plane(wall, normal, look))
    return Stage(surroundings, floor, far * 0.25, far * 0.9, shapes=HELDOUT)


def hills(builder: Builder) -> Stage:
    """Bumpy ground under the sky."""
    floor = builder.rng.uniform(1.0, 3.0)
    far = builder.log_uniform(8, 30)
    bumps = builder.rng.uniform(0.1, 0.35) * floor
    along_x, along_z = builder.rng.normal(0, 3 / far, (2, WAVES))  # radians per metre
    phases = builder.rng.uniform(0, 6, WAVES)
    waves = np.stack([along_x, along_z, phases], -1)
    axes = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]])
    half = np.array([120, 120, bumps])
    ground = Solid("bumps", np.array([0, floor, 0]), axes, half, builder.look(4), waves)
    return Stage([ground], floor, 2.0, far, open=True, shapes=HELDOUT)


def pedestal(builder: Builder) -> Stage:
    """Held-out shapes close to the camera on a round table, in front of a distant wall."""
    floor = builder.rng.uniform(0.2, 0.7)
    far = builder.rng.uniform(1.0, 2.5)
    top = builder.rod([0, floor, far * 0.6], [0, floor + 0.05, far * 0.6], far * 0.7)
    wall = builder.plane([0, 0, far * 2], [builder.rng.normal(0, 0.4), 0, -1], builder.look(2))
    surroundings = [top, builder.plane([0, floor + 0.9, 0], UP, builder.look(2)), wall]
    return Stage(surroundings, floor, 0.45, far, shapes=HELDOUT)


FAMILIES = (room, room, corridor, tabletop, tabletop, street)
VARIED = (room, corridor, tabletop, street, mounds, mounds, valley, studio, studio)
OTHER = (hall, hills, pedestal)
