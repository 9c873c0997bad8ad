"""A scene as the host draws it, and what a rendering of it holds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from urgt_jax.data.scenes.camera import Camera
from urgt_jax.data.scenes.solids import Solid
from urgt_jax.data.scenes.textures import Tables


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


@dataclass(frozen=True)
class View:
    """A rendered scene."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]  # metres along the optical axis, 0 in the sky
    normal: Float[np.ndarray, "h w 3"]  # unit, towards the camera, 0 in the sky
    valid: Bool[np.ndarray, "h w"]
    intrinsics: Float[np.ndarray, "4"]  # fx, fy, cx, cy, pixels
