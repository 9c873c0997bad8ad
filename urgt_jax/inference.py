"""A trained refiner as a function from a picture and its coarse maps to refined maps."""

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax import grid as grids
from urgt_jax import pictures
from urgt_jax.checkpoints import load_weights
from urgt_jax.config import Config, require
from urgt_jax.data import priors
from urgt_jax.model.refiner import HEAD_PIXELS, Offsets
from urgt_jax.step import stages

Depth = Float[np.ndarray, "H W"]
Normal = Float[np.ndarray, "H W 3"]


class Result(NamedTuple):
    """Refined maps at the picture's size; a confidence is None where the model has no such head."""

    depth: Depth  # in the coarse map's unit
    normal: Normal  # unit length
    depth_confidence: Depth | None  # 1 and above
    normal_confidence: Depth | None  # 1 and above


def load(path: str | Path, dtype: str | None = None) -> "Refiner":
    """The refiner in a weight file, or in the work directory of a finished run."""
    params, config = load_weights(path)
    if dtype:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
    return Refiner(params, config)


class Refiner:
    """Refines coarse maps of one picture at a time; memory grows slowly with the patches."""

    def __init__(self, params: dict, config: Config):
        self.config = config
        self.params = jax.device_put(params)
        self.stages = stages(config.model)

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        coarse_depth: Depth,
        coarse_normal: Normal,
        grid: tuple[int, int] | None = None,
        overlap: float = 0.0,
        progress: Callable[[int, int], None] = lambda done, count: None,
    ) -> Result:
        """Refined maps; `progress(done, count)` is called as patches go through the network.

        Without a grid the picture is cut as it was for the model's own evaluation.
        """
        height, width = _check(image)
        depth = pictures.check_map(np.asarray(coarse_depth), (height, width), "coarse depth")
        normal = pictures.check_map(np.asarray(coarse_normal), (height, width, 3), "coarse normal")
        rows, cols = grid or self.config.eval.grid
        windows = grids.cover(height, width, rows, cols, overlap)
        coarse, unit = priors.normalise(depth, self.config.prior, self.config.data.max_depth)
        found = self.refine(image, coarse, pictures.unit(normal), windows, progress)
        return found._replace(depth=unit.back(found.depth))

    def refine(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        depth: Depth,
        normal: Normal,
        windows: grids.Grid,
        progress: Callable[[int, int], None] = lambda done, count: None,
    ) -> Result:
        """Refined maps from maps as the network takes them, in the same units."""
        found = self.offsets(image, depth, normal, windows, progress)
        add, sure = _placed(found.get("depth"), windows)
        turn, certain = _placed(found.get("normal"), windows)
        depth = depth if add is None else depth + add[..., 0]
        normal = normal if turn is None else pictures.unit(normal + turn)
        return Result(depth, normal, sure, certain)

    def offsets(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        depth: Depth,
        normal: Normal,
        windows: grids.Grid,
        progress: Callable[[int, int], None] = lambda done, count: None,
    ) -> dict[str, Offsets]:
        """Offsets of every window at the process shape, from maps as the network takes them."""
        process, count = self.config.model.process, windows.count
        size = min(max(HEAD_PIXELS // (process[0] * process[1]), 1), count)
        chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
        tokens, steps = [], 2 * len(chunks) + 1
        for i, chunk in enumerate(chunks):
            maps = [_windows(x, windows, chunk, process) for x in (image, depth, normal)]
            coded = self.stages.encode(self.params, *(_padded(x, size)[None] for x in maps))
            tokens.append(coded[0, : len(chunk)])
            progress(i + 1, steps)
        whole = jax.numpy.concatenate(tokens)[None]
        spots = grids.positions(windows.origins, windows.patch, self.config.model.tokens)
        layers = self.stages.attend(self.params, whole, spots[None])
        found = []
        for i, chunk in enumerate(chunks):
            part = [_padded(x[0, chunk.start : chunk.stop], size)[None] for x in layers]
            out = jax.device_get(self.stages.heads(self.params, part))
            found.append(jax.tree.map(lambda x: x[0], out))
            progress(len(chunks) + 2 + i, steps)
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)

    def patches(
        self, image: UInt8[np.ndarray, "H W 3"], depth: Depth, normal: Normal, windows: grids.Grid
    ) -> Float[np.ndarray, "P h w"] | None:
        """Refined depth of every window at its own size, from maps as the network takes them."""
        found = self.offsets(image, depth, normal, windows).get("depth")
        if found is None:
            return None
        add = [pictures.resized(x[..., 0], windows.patch) for x in found.value]
        return np.stack([a + b for a, b in zip(grids.cut(depth, windows), add, strict=True)])


def _check(image: np.ndarray) -> tuple[int, int]:
    require(
        image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8,
        f"the image has shape {image.shape} and dtype {image.dtype}: give [H, W, 3] uint8",
    )
    return image.shape[:2]


def _windows(x, windows: grids.Grid, chunk: range, process: tuple[int, int]) -> np.ndarray:
    """Some windows of a map at the process shape."""
    parts = islice(grids.cut(x, windows), chunk.start, chunk.stop)
    return np.stack([pictures.resized(part, process) for part in parts])


def _padded(x, size: int):
    """The last of the windows repeated, so that every chunk has the same shape."""
    missing = size - len(x)
    xp = np if isinstance(x, np.ndarray) else jax.numpy
    return xp.concatenate([x, xp.repeat(x[-1:], missing, 0)]) if missing else x


def _placed(found: Offsets | None, windows: grids.Grid):
    """Offsets and confidences of all windows, put together at the picture's size."""
    if found is None:
        return None, None
    both = np.concatenate([found.value, found.confidence[..., None]], -1)
    patches = (pictures.resized(patch, windows.patch) for patch in both)
    whole = grids.place(patches, windows, grids.centre_weight(*windows.patch))
    return whole[..., :-1], whole[..., -1]
