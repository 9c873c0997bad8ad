"""A trained refiner as a function from a picture and its coarse maps to refined maps."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from urgt_jax.config import Config, Model
from urgt_jax.data.priors import networks
from urgt_jax.errors import require
from urgt_jax.images import grid as grids
from urgt_jax.images.grid import Grid
from urgt_jax.inference import offload
from urgt_jax.inference.modes import MODES, RefinerInputs
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models import flops
from urgt_jax.models.refiner import HEAD_PIXELS, Offsets
from urgt_jax.weights.weight_file import load_weights, weights_kind

Depth = Float[np.ndarray, "H W"]
Normal = Float[np.ndarray, "H W 3"]
Progress = Callable[[int, int], None]  # (done, count)
Tell = Callable[[str, float], None]  # which stage, and the share of it that is done


def quiet(done: int, count: int) -> None:
    """Tells nothing."""


class Result(NamedTuple):
    """Refined maps at the picture's size; a confidence is None where the model has no such head."""

    depth: Depth  # in the coarse map's unit
    normal: Normal  # unit length
    depth_confidence: Depth | None  # 1 and above
    normal_confidence: Depth | None  # 1 and above


def load(
    path: str | Path,
    dtype: str | None = None,
    fidelity: str | None = None,
    pool: int | None = None,
    resident: int | None = None,
):
    """The model in a weight file, or in the work directory of a finished run, as a function.

    A refiner, unless the file holds Depth Anything V2 or Metric3D v2.
    """
    kind = weights_kind(path)
    if kind in networks.NETWORKS:
        return networks.NETWORKS[kind](path)
    params, config = load_weights(path)
    if dtype:
        config = replace(config, model=replace(config.model, dtype=dtype))
    if fidelity:
        config = replace(config, eval=replace(config.eval, fidelity=fidelity))
    if pool is not None:
        config = replace(config, eval=replace(config.eval, pool=pool))
    return Refiner(params, config, resident)


def choose_grid(
    size: tuple[int, int], config: Config, asked: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Rows and columns of patches that a picture is cut into, as asked or as configured."""
    c = config.eval
    return grids.choose_grid(size, asked or c.grid, config.model.patch_size, c.max_patches)


class Refiner:
    """Refines coarse maps of one picture at a time; memory grows slowly with the patches.

    `resident` patches attend to each other on the device at a time, where all others' tokens wait
    in the host's memory; None takes all, or where they do not fit as many as do.
    """

    def __init__(self, params: dict, config: Config, resident: int | None = None):
        require(resident is None or resident >= 1, f"resident {resident} must be at least 1")
        self.config, self.resident = config, resident
        self.params = jax.device_put(params)
        self.stages = jit_stages(config.model, config.eval.pool)
        self.way = MODES[config.eval.fidelity](config)

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
        return _joined(
            self.strips(image, coarse_depth, coarse_normal, grid, overlap, progress), len(image)
        )

    def strips(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        coarse_depth: Depth,
        coarse_normal: Normal,
        grid: tuple[int, int] | None = None,
        overlap: float | None = None,
        progress: Progress = quiet,
    ) -> Iterator[tuple[slice, Result]]:
        """The same, some rows after the others from the top, for pictures of any size.

        Coarse maps may be memory-mapped: they are never read whole.
        """
        size = _check(image)
        split, overlap = self.split(size, grid, overlap)
        view = self.way.view(image, split)
        maps = self.way.prepare(view, np.asanyarray(coarse_depth), np.asanyarray(coarse_normal))
        windows = grids.cover_image(*maps.size, *split, overlap)
        found = self._strips(maps, windows, progress)
        if maps.size != size:  # resizing mixes rows of neighbouring strips
            whole = _joined(found, maps.size[0])
            finished = (x if x is None else self.way.finish(x, size) for x in whole)
            found = [(slice(0, size[0]), Result(*finished))]
        for rows, (depth, normal, *sure) in found:
            yield rows, Result(maps.unit.restore(depth), self.way.unit(normal), *sure)

    def split(
        self, size: tuple[int, int], grid: tuple[int, int] | None, overlap: float | None
    ) -> tuple[tuple[int, int], float]:
        """Rows and columns of patches and their overlap, the weights' own where none is given."""
        split = choose_grid(size, self.config, grid)
        return split, self.config.eval.overlap if overlap is None else overlap

    def refine(self, maps: RefinerInputs, windows: Grid, progress: Progress = quiet) -> Result:
        """Refined maps, in the units and at the size of the maps."""
        return _joined(self._strips(maps, windows, progress), maps.size[0])

    def _strips(
        self, maps: RefinerInputs, windows: Grid, progress: Progress
    ) -> Iterator[tuple[slice, Result]]:
        parts, weight = self._parts(maps, windows, progress), self.way.weight(windows)
        for rows, placed in grids.merge_windows(parts, windows, weight):
            yield rows, self._result(placed, maps.depth[rows], maps.normal[rows])

    def _result(self, placed: dict[str, np.ndarray], depth: Depth, normal: Normal) -> Result:
        """Refined rows from what was put together and the coarse maps' rows."""
        depth_confidence, normal_confidence = None, None
        if "depth" in placed:
            depth = self.way.refined(placed["depth"][..., 0], depth)
            depth_confidence = placed["depth_confidence"][..., 0]
        if "normal" in placed:
            normal = self.way.refined(placed["normal"], normal)
            normal_confidence = placed["normal_confidence"][..., 0]
        return Result(depth, self.way.unit(normal), depth_confidence, normal_confidence)

    def _parts(
        self, maps: RefinerInputs, windows: Grid, progress: Progress
    ) -> Iterator[dict[str, np.ndarray]]:
        """What is placed at each window: values of every head, each before its confidence."""
        priors = {"depth": maps.depth, "normal": maps.normal}
        for k, offsets in enumerate(self.offsets(maps, windows, progress)):
            patch = {}
            for kind in self.config.model.outputs:
                value, confidence = offsets[kind]
                both = np.concatenate([value, confidence[..., None]], -1)
                both = self.way.patch(both, priors[kind], windows, k)
                patch[kind], patch[f"{kind}_confidence"] = both[..., :-1], both[..., -1:]
            yield patch

    def offsets(
        self, maps: RefinerInputs, windows: Grid, progress: Progress = quiet
    ) -> Iterator[dict[str, Offsets]]:
        """Offsets of one window after the other at the process shape."""
        count = windows.count
        size = chunk_of(self.config.model, count)
        chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
        resident = self.resident or offload.resident(self.config.model, count) or count
        tell = self._teller(count, progress)
        tokens = []
        for i, chunk in enumerate(chunks):
            cut = zip(*(self.way.cut(maps, windows, k) for k in chunk), strict=True)
            cut = [_padded(np.stack(x), size)[None] for x in cut]
            found = self.stages.encode(self.params, *cut)[0, : len(chunk)]
            tokens.append(jax.device_get(found) if resident < count else found)
            tell("encode", (i + 1) / len(chunks))
        layers = self._attend(tokens, self.way.spots(windows), resident, tell)
        for i, chunk in enumerate(chunks):
            part = _padded(layers[:, 0, chunk.start : chunk.stop], size, 1)[:, None]
            out = jax.device_get(self.stages.heads(self.params, part))
            tell("heads", (i + 1) / len(chunks))
            for k in range(len(chunk)):
                yield jax.tree.map(lambda x: x[0, k], out)  # noqa: B023

    def _attend(self, tokens: list, spots: np.ndarray, resident: int, tell: Tell):
        """The layers that heads read, [K 1 P N C], on the host where patches do not all fit."""
        count, c = len(spots), self.config
        whole = (np if resident < count else jnp).concatenate(tokens)
        tokens.clear()
        if resident >= count:
            layers = self.stages.attend(self.params, whole[None], spots[None])
            tell("attend", 1.0)
            return layers
        shares = partial(tell, "attend")
        layers = offload.attend(self.params, c.model, whole, spots, resident, c.eval.pool, shares)
        return layers[:, None]

    def _teller(self, count: int, progress: Progress) -> Tell:
        """Turns the share of a stage that is done into a share of the work, in percent."""
        cost = flops.forward(self.config.model, count, self.config.eval.pool)
        parts = {"encode": cost.encoder, "attend": cost.pairs, "heads": cost.dpt_heads}
        before = dict(zip(parts, np.cumsum([0, *parts.values()]), strict=False))

        def tell(stage: str, share: float) -> None:
            done = (before[stage] + share * parts[stage]) / cost.total
            progress(int(100 * done + 1e-6), 100)  # all of it only at the end

        return tell

    def patches(self, maps: RefinerInputs, windows: Grid) -> Float[np.ndarray, "P h w"] | None:
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


def _joined(strips: Iterable[tuple[slice, Result]], height: int) -> Result:
    """All rows of maps in one."""
    whole = None
    for rows, part in strips:
        if whole is None:
            whole = [x if x is None else np.empty((height, *x.shape[1:]), x.dtype) for x in part]
        for into, x in zip(whole, part, strict=True):
            if x is not None:
                into[rows] = x
    return Result(*whole)


def chunk_of(model: Model, patches: int) -> int:
    """Patches that are encoded, and given to the heads, at a time."""
    # More at a time would cost a CPU memory and, as maps leave its caches, time too.
    pixels = HEAD_PIXELS // (8 if jax.default_backend() == "cpu" else 1)
    return min(max(pixels // math.prod(model.patch_size), 1), patches)


def _padded(x, size: int, axis: int = 0):
    """The last of the windows repeated, so that every chunk has the same shape."""
    xp, count = np if isinstance(x, np.ndarray) else jnp, x.shape[axis]
    if count == size:
        return x
    return xp.take(x, np.minimum(np.arange(size), count - 1), axis)
