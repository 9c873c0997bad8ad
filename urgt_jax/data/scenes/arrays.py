"""A scene as arrays of one size, whatever is in it: what the compiled renderer takes."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from urgt_jax.data.scenes.camera import Camera
from urgt_jax.data.scenes.paint import PATTERNS
from urgt_jax.data.scenes.rays import KINDS
from urgt_jax.data.scenes.scene import Scene
from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import Look

Arrays = np.ndarray | jax.Array
SOLIDS = 160  # solids are padded to a multiple of this
LIGHTS = 3
COLOURS = 6  # of a look
PARAMETERS = (14, 4)  # rows and columns of a solid's `shape`
F = np.float32


class SolidArrays(NamedTuple):
    """Solids by number. One solid has the same fields without their first axis."""

    kind: Int[Arrays, "*S"]  # in rays.KINDS
    centre: Float[Arrays, "*S 3"]  # metres, camera axes
    axes: Float[Arrays, "*S 3 3"]  # rows
    half: Float[Arrays, "*S 3"]  # metres
    shape: Float[Arrays, "*S 14 4"]  # parameters of the kind, zero where there are none
    parts: Int[Arrays, "*S"]  # rows of `shape` that are in use


class LookArrays(NamedTuple):
    """The looks of the solids, by the solid's number."""

    pattern: Int[Arrays, "*S"]  # in paint.PATTERNS
    colours: Float[Arrays, "*S 6 3"]
    count: Int[Arrays, "*S"]  # colours in use
    to_cells: Float[Arrays, "*S 2 2"]
    cells_per_metre: Float[Arrays, "*S"]
    shift: Float[Arrays, "*S 2"]  # cells
    share: Float[Arrays, "*S"]
    noise: Float[Arrays, "*S 2"]  # strength of fine and of coarse noise
    texel: Float[Arrays, "*S"]  # metres
    gloss: Float[Arrays, "*S"]
    power: Float[Arrays, "*S"]


class TableArrays(NamedTuple):
    """Random numbers for textures."""

    cells: Float[Arrays, "side side"]
    noise: Float[Arrays, "texels"]  # all levels of the pyramid, one after the other


class CameraArrays(NamedTuple):
    """A camera; the fields are those of `Camera`."""

    exposure: Float[Arrays, ""]
    balance: Float[Arrays, "3"]
    gamma: Float[Arrays, ""]
    vignette: Float[Arrays, ""]
    blur: Float[Arrays, ""]
    shot: Float[Arrays, ""]
    read: Float[Arrays, ""]
    quality: Int[Arrays, ""]
    seed: Int[Arrays, ""]


class SceneArrays(NamedTuple):
    """A scene."""

    solids: SolidArrays
    looks: LookArrays
    lights: Float[Arrays, "3 3"]  # unit, towards the lights
    strengths: Float[Arrays, "3 3"]  # zero for a light that is not there
    ambient: Float[Arrays, "3"]
    shadow: Float[Arrays, ""]  # metres; 0 is none
    sky: Float[Arrays, "2 3"]
    haze: Float[Arrays, ""]
    up: Float[Arrays, "3"]
    tables: TableArrays


def padded_count(solids: int) -> int:
    """The length of a scene's arrays."""
    return -(-solids // SOLIDS) * SOLIDS


def pack(scene: Scene) -> SceneArrays:
    """The scene as arrays. Scenes with up to SOLIDS solids have arrays of the same shapes."""
    total = padded_count(len(scene.solids))
    lights = np.zeros((LIGHTS, 3), F)
    strengths = np.zeros((LIGHTS, 3), F)
    lights[: len(scene.lights)] = scene.lights
    strengths[: len(scene.strengths)] = scene.strengths
    return SceneArrays(
        solids=_stack([_pack_solid(solid) for solid in scene.solids], total),
        looks=_stack([_pack_look(solid.look) for solid in scene.solids], total),
        lights=lights,
        strengths=strengths,
        ambient=scene.ambient.astype(F),
        shadow=F(scene.shadow),
        sky=scene.sky.astype(F),
        haze=F(scene.haze),
        up=scene.up.astype(F),
        tables=TableArrays(scene.tables.cells, scene.tables.pyramid),
    )


def pack_camera(camera: Camera) -> CameraArrays:
    """The camera as arrays."""
    return CameraArrays(
        exposure=F(camera.exposure),
        balance=camera.balance.astype(F),
        gamma=F(camera.gamma),
        vignette=F(camera.vignette),
        blur=F(camera.blur),
        shot=F(camera.shot),
        read=F(camera.read),
        quality=np.int32(camera.quality),
        seed=np.int32(camera.seed),
    )


def _stack(rows: list, total: int):
    """Tuples of arrays as a tuple of stacked arrays, padded with zeros to a length."""
    fields = []
    for values in zip(*rows, strict=True):
        stacked = np.stack(values)
        padded = np.zeros((total, *stacked.shape[1:]), stacked.dtype)
        padded[: len(rows)] = stacked
        fields.append(padded)
    return type(rows[0])(*fields)


def _pack_solid(solid: Solid) -> SolidArrays:
    shape = np.zeros(PARAMETERS, F)
    parts = 0
    if solid.shape is not None:
        rows = np.atleast_2d(solid.shape)
        parts = len(rows)
        shape[:parts, : rows.shape[1]] = rows
    return SolidArrays(
        kind=np.int32(KINDS.index(solid.kind)),
        centre=solid.centre.astype(F),
        axes=solid.axes.astype(F),
        half=solid.half.astype(F),
        shape=shape,
        parts=np.int32(parts),
    )


def _pack_look(look: Look) -> LookArrays:
    colours = np.zeros((COLOURS, 3), F)
    colours[: len(look.colours)] = look.colours
    return LookArrays(
        pattern=np.int32(list(PATTERNS).index(look.pattern)),
        colours=colours,
        count=np.int32(len(look.colours)),
        to_cells=look.to_cells.astype(F),
        cells_per_metre=F(np.sqrt(np.abs(np.linalg.det(look.to_cells)))),
        shift=look.shift.astype(F),
        share=F(look.share),
        noise=np.array(look.noise, F),
        texel=F(look.texel),
        gloss=F(look.gloss),
        power=F(look.power),
    )
