"""Pictures with measured depth, from wherever they come, in one form."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from urgt_jax.config import Config
from urgt_jax.data import scenes
from urgt_jax.data.priors import degrade

CACHE = 1e9  # bytes of rendered pictures that are kept in memory
BYTES = 36  # per pixel of a Picture


class Picture(NamedTuple):
    """A picture, its truth and its priors."""

    image: np.ndarray  # uint8 [H, W, 3]
    depth: np.ndarray  # float32 [H, W], metres
    normal: np.ndarray  # float32 [H, W, 3], unit, towards the camera
    valid: np.ndarray  # bool [H, W]
    intrinsics: np.ndarray  # float32 [4], fx, fy, cx, cy in pixels
    coarse_depth: np.ndarray  # float32 [H, W], in the prior's unit
    coarse_normal: np.ndarray  # float32 [H, W, 3], unit


class Scenes(Sequence):
    """Analytic scenes with degraded truth as priors; picture i is a function of (split, i)."""

    def __init__(self, config: Config, split: str, size: tuple[int, int] | None = None):
        self.config, self.split = config, split
        self.size = size or config.data.size
        self.kept: dict[int, Picture] = {}  # few scenes are soon rendered, and then only read

    def __len__(self) -> int:
        return self.config.data.scenes if self.split == "train" else self.config.eval.images

    def __getitem__(self, index: int) -> Picture:
        if index not in self.kept:
            picture = self._render(index)
            if len(self.kept) * picture.depth.size * BYTES < CACHE:
                self.kept[index] = picture
            return picture
        return self.kept[index]

    def _render(self, index: int) -> Picture:
        data = self.config.data
        view = scenes.render(scenes.sample_scene(index, self.split), *self.size)
        valid = view.valid & (view.depth < data.max_depth)
        rng = np.random.default_rng([index, len(self.split)])
        coarse = degrade(view.depth, view.normal, valid, self.config.prior, rng, data.max_depth)
        return Picture(view.image, view.depth, view.normal, valid, view.intrinsics, *coarse)
