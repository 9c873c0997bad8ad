"""A trained refiner as a function from a picture and its coarse maps to refined maps."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax import coarse
from urgt_jax import grid as grids
from urgt_jax.checkpoints import kind_in, load_weights
from urgt_jax.config import Config, require
from urgt_jax.fidelity import FIDELITIES, Maps
from urgt_jax.grid import Grid
from urgt_jax.model.refiner import CHANNELS, HEAD_PIXELS, Offsets
from urgt_jax.step import stages

Depth = Float[np.ndarray, "H W"]
Normal = Float[np.ndarray, "H W 3"]
Progress = Callable[[int, int], None]  # (done, count)


def quiet(done: int, count: int) -> None:
    """Tells nothing."""


class Result(NamedTuple):
    """Refined maps at the picture's size; a confidence is None where the model has no such head."""

    depth: Depth  # in the coarse map's unit
    normal: Normal  # unit length
    depth_confidence: Depth | None  # 1 and above
    normal_confidence: Depth | None  # 1 and above


def load(path: str | Path, dtype: str | None = None, fidelity: str | None = None):
    """The model in a weight file, or in the work directory of a finished run, as a function.

    A refiner, unless the file holds Depth Anything V2 or Metric3D v2.
    """
    kind = kind_in(path)
    if kind in coarse.MODELS:
        return coarse.load(path, kind)
    params, config = load_weights(path)
    if dtype:
        config = replace(config, model=replace(config.model, dtype=dtype))
    if fidelity:
        config = replace(config, eval=replace(config.eval, fidelity=fidelity))
    return Refiner(params, config)


class Refiner:
    """Refines coarse maps of one picture at a time; memory grows slowly with the patches."""

    def __init__(self, params: dict, config: Config):
        self.config = config
        self.params = jax.device_put(params)
        self.stages = stages(config.model)
        self.way = FIDELITIES[config.eval.fidelity](config)

    def __call__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        coarse_depth: Depth,
        coarse_normal: Normal,
        grid: tuple[int, int] | None = None,
        overlap: float | None = None,
        progress: Progress = quiet,
    ) -> Result:
        """Refined maps; `progress(done, count)` is called as patches go through the network.

        Without a grid or an overlap the picture is cut as the weights' own evaluation does.
        """
        size = _check(image)
        split, overlap = self.split(grid, overlap)
        view = self.way.view(image, split)
        maps = self.way.prepare(view, np.asarray(coarse_depth), np.asarray(coarse_normal))
        windows = self.way.cover(maps, split, overlap)
        found = self.refine(maps, windows, progress)
        finished = (x if x is None else self.way.finish(x, size) for x in found)
        depth, normal, *sure = finished
        return Result(maps.unit.back(depth), self.way.unit(normal), *sure)

    def split(
        self, grid: tuple[int, int] | None, overlap: float | None
    ) -> tuple[tuple[int, int], float]:
        """Rows and columns of patches and their overlap, the weights' own where none is given."""
        c = self.config.eval
        return tuple(grid or c.grid), c.overlap if overlap is None else overlap

    def refine(self, maps: Maps, windows: Grid, progress: Progress = quiet) -> Result:
        """Refined maps, in the units and at the size of the maps."""
        parts = self._parts(maps, windows, progress)
        whole = grids.place(parts, windows, self.way.weight(windows))
        found, at = {}, 0
        for kind in self.config.model.outputs:
            channels = CHANNELS[kind]
            found[kind] = whole[..., at : at + channels], whole[..., at + channels]
            at += channels + 1
        depth, sure = found.get("depth", (None, None))
        normal, certain = found.get("normal", (None, None))
        depth = maps.depth if depth is None else self.way.refined(depth[..., 0], maps.depth)
        normal = maps.normal if normal is None else self.way.refined(normal, maps.normal)
        return Result(depth, self.way.unit(normal), sure, certain)

    def _parts(self, maps: Maps, windows: Grid, progress: Progress) -> Iterator[np.ndarray]:
        """What is placed at each window: values of every head, each before its confidence."""
        priors = {"depth": maps.depth, "normal": maps.normal}
        for k, offsets in enumerate(self.offsets(maps, windows, progress)):
            parts = []
            for kind in self.config.model.outputs:
                value, confidence = offsets[kind]
                both = np.concatenate([value, confidence[..., None]], -1)
                parts.append(self.way.patch(both, priors[kind], windows, k))
            yield np.concatenate(parts, -1)

    def offsets(
        self, maps: Maps, windows: Grid, progress: Progress = quiet
    ) -> Iterator[dict[str, Offsets]]:
        """Offsets of one window after the other at the process shape."""
        process, count = self.config.model.process, windows.count
        # More at a time would cost a CPU memory and, as maps leave its caches, time too.
        pixels = HEAD_PIXELS // (8 if jax.default_backend() == "cpu" else 1)
        size = min(max(pixels // (process[0] * process[1]), 1), count)
        chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
        tokens, steps = [], 2 * len(chunks) + 1
        for i, chunk in enumerate(chunks):
            cut = zip(*(self.way.cut(maps, windows, k) for k in chunk), strict=True)
            cut = [_padded(np.stack(x), size)[None] for x in cut]
            tokens.append(self.stages.encode(self.params, *cut)[0, : len(chunk)])
            progress(i + 1, steps)
        whole = jnp.concatenate(tokens)[None]
        del tokens
        layers = self.stages.attend(self.params, whole, self.way.spots(windows)[None])
        del whole
        for i, chunk in enumerate(chunks):
            part = [_padded(x[0, chunk.start : chunk.stop], size)[None] for x in layers]
            out = jax.device_get(self.stages.heads(self.params, part))
            progress(len(chunks) + 2 + i, steps)
            for k in range(len(chunk)):
                yield jax.tree.map(lambda x: x[0, k], out)  # noqa: B023

    def patches(self, maps: Maps, windows: Grid) -> Float[np.ndarray, "P h w"] | None:
        """Refined depth of every window at its own size, in the maps' unit."""
        if "depth" not in self.config.model.outputs:
            return None
        found = []
        for k, offsets in enumerate(self.offsets(maps, windows)):
            placed = self.way.patch(offsets["depth"].value, maps.depth, windows, k)[..., 0]
            found.append(self.way.refined(placed, maps.depth[windows.window(k)]))
        return np.stack(found)


def _check(image: np.ndarray) -> tuple[int, int]:
    require(
        image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8,
        f"the image has shape {image.shape} and dtype {image.dtype}: give [H, W, 3] uint8",
    )
    return image.shape[:2]


def _padded(x, size: int):
    """The last of the windows repeated, so that every chunk has the same shape."""
    missing = size - len(x)
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.concatenate([x, xp.repeat(x[-1:], missing, 0)]) if missing else x
