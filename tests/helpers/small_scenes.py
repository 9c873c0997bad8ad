"""Scenes of a few solids, whose images can be worked out by hand."""

from dataclasses import replace

import numpy as np

from urgt_jax.data.scenes import Scene, View
from urgt_jax.data.scenes.builder import Builder
from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import Look, tables

TOWARDS_CAMERA = np.array([0.0, 0.0, -1.0])


def make_builder(seed: int = 0, other: bool = False) -> Builder:
    return Builder(np.random.default_rng(seed), other, np.full((2, 3), 0.5))


def plain_look(colour: float = 0.5) -> Look:
    """One colour without noise or highlights."""
    look = make_builder().look(1.0, ("plain",))
    return replace(look, colours=np.full((2, 3), colour), noise=(0.0, 0.0), gloss=0.0)


def scene_of(solids: list[Solid], view: float = 1.0, **changes) -> Scene:
    """Solids in white light from the camera's direction, without ambient light, sky or camera."""
    scene = Scene(
        solids=tuple(solids),
        view=view,
        lights=TOWARDS_CAMERA[None],
        strengths=np.ones((1, 3)),
        ambient=np.zeros(3),
        shadow=0.0,
        sky=np.zeros((2, 3)),
        haze=0.0,
        up=np.array([0.0, -1.0, 0.0]),
        tables=tables(0),
        camera=None,
    )
    return replace(scene, **changes)


def rays_of(view: View, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The directions of the pixels' centres, moved by (right, down) pixels: [h, w, 3]."""
    height, width = view.depth.shape
    fx, fy, cx, cy = view.intrinsics.astype(float)
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = x + shift[0], y + shift[1]
    return np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1)
