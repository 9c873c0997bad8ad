"""A trained refiner as a function from an image and its coarse maps to refined maps."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import PathLike
from jaxtyping import Array, Float, Shaped, UInt8

from urgt_jax.config import Config, Model
from urgt_jax.errors import UserError, require
from urgt_jax.images import grid as grids
from urgt_jax.images.grid import Grid
from urgt_jax.inference import offload
from urgt_jax.inference.modes import MODES, RefinerInputs
from urgt_jax.inference.stages import jit_stages
from urgt_jax.models import flops
from urgt_jax.models.precision import cast_weights
from urgt_jax.models.refiner import HEAD_PIXELS, Offsets
from urgt_jax.models.registry import FAMILIES
from urgt_jax.weights.weight_file import load_weights, weights_kind

Image = UInt8[np.ndarray, "H W 3"]
ReportProgress = Callable[[int, int], None]  # takes how much is done, and of how much
PRIOR_OPTIONS = {"depth_anything": "--depth-weights", "metric3d": "--normal-weights"}
StageProgress = Callable[[str, float], None]  # takes a stage and the share of it that is done


def ignore_progress(done: int, count: int) -> None:
    """Report nothing."""


class Result(NamedTuple):
    """Refined maps; a confidence is None where the model does not predict it.

    The maps of a batch of B images are stacked: depth is [B, H, W].
    """

    depth: Float[np.ndarray, "*B H W"]  # in the coarse map's unit
    normal: Float[np.ndarray, "*B H W 3"]  # unit length
    depth_confidence: Float[np.ndarray, "*B H W"] | None  # 1 and above
    normal_confidence: Float[np.ndarray, "*B H W"] | None  # 1 and above


Strips = Iterator[tuple[slice, Result]]  # rows of an image, from the top, and their maps


class Job(NamedTuple):
    """How one image is going to be refined."""

    image: Image  # the image that is refined, which official mode shrinks a little
    windows: Grid  # the patches of that image
    size: tuple[int, int]  # height and width of the user's image and of the refined maps, pixels

    @property
    def patches(self) -> int:
        """The number of patches."""
        return self.windows.count


def load(
    path: PathLike,
    dtype: str | None = None,
    fidelity: str | None = None,
    pool: int | None = None,
    resident: int | None = None,
) -> "Refiner":
    """Load a refiner from a weight file, a run's work directory, or the name of shipped weights.

    `hf://ORG/REPOSITORY` is downloaded from the Hugging Face hub. Without `dtype`, `fidelity` or
    `pool`, those stored with the weights are used. `resident` is that of `Refiner`. A UserError if
    there are no weights, or weights of another kind of model.
    """
    kind = weights_kind(path)
    if kind in PRIOR_OPTIONS:
        raise UserError(
            f"{path} holds weights of {FAMILIES[kind].title}, which is not a refiner: pass them to "
            f"`urgt refine` with {PRIOR_OPTIONS[kind]}, which makes coarse maps"
        )
    params, config = load_weights(path)
    if dtype is not None:
        config = replace(config, model=replace(config.model, dtype=dtype))
    if fidelity is not None:
        config = replace(config, eval=replace(config.eval, fidelity=fidelity))
    if pool is not None:
        config = replace(config, eval=replace(config.eval, pool=pool))
    return Refiner(params, config, resident)


def choose_grid(
    size: tuple[int, int], config: Config, grid: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Rows and columns of patches for an image; None takes the configured ones."""
    if grid is None:
        grid = config.eval.grid
    return grids.choose_grid(size, grid, config.model.patch_size, config.eval.max_patches)


class Refiner:
    """Refines the coarse maps of images, one at a time; memory grows slowly with the patches.

    `resident` patches are on the device at once, and the tokens of all others wait in host memory.
    By default as many are as fit.
    """

    def __init__(self, params: dict, config: Config, resident: int | None = None):
        require(resident is None or resident >= 1, f"resident {resident} must be at least 1")
        rows, cols = config.model.tokens
        require(
            config.eval.pool <= max(rows, cols),
            f"pool {config.eval.pool} is larger than a patch, which has {rows} x {cols} tokens: "
            f"use at most {max(rows, cols)}",
        )
        self.config = config
        self.resident = resident
        self.params = jax.device_put(cast_weights(params, config.model))
        self.stages = jit_stages(config.model, config.eval.pool)
        self.mode = MODES[config.eval.fidelity](config)

    def __call__(
        self,
        image: UInt8[Array | np.ndarray, "*B H W 3"],
        coarse_depth: Float[Array | np.ndarray, "... h w"],
        coarse_normal: Float[Array | np.ndarray, "... h w 3"],
        grid: tuple[int, int] | None = None,
        overlap: float | None = None,
        progress: ReportProgress = ignore_progress,
    ) -> Result:
        """Refine the coarse maps of an image. Official mode takes maps of any size.

        The image is uint8 [H, W, 3], the coarse maps are float [H, W] and [H, W, 3]. B images of
        one size are stacked in front; they are refined one after the other. A UserError if the
        arrays do not fit each other.

        Without `grid` or `overlap`, those stored with the weights are used; grid (0, 0) fits the
        image size. `progress(done, count)` is called as patches pass through the network.
        """
        image = np.asarray(image)
        if image.ndim != 4:
            job = self.plan(image, grid, overlap)
            return _join_rows(self.run(job, coarse_depth, coarse_normal, progress), job.size[0])
        count = len(image)
        require(
            count == len(coarse_depth) == len(coarse_normal) and count > 0,
            f"there are {count} images, {len(coarse_depth)} coarse depth maps and "
            f"{len(coarse_normal)} coarse normal maps: give as many of each, at least one",
        )
        results = []
        for i in range(count):
            of_image = partial(_report_share, progress, i, count)
            maps = (image[i], coarse_depth[i], coarse_normal[i])
            results.append(self(*maps, grid, overlap, of_image))
        return _stack(results)

    def plan(
        self,
        image: Shaped[np.ndarray, "..."],
        grid: tuple[int, int] | None = None,
        overlap: float | None = None,
    ) -> Job:
        """Decide how to refine an image, uint8 [H, W, 3].

        A network that predicts coarse maps sees `job.image`. A UserError if the image has another
        shape or dtype, or is smaller than the grid.
        """
        require(
            image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8,
            f"the image has shape {image.shape} and dtype {image.dtype}: give [H, W, 3] uint8",
        )
        size = image.shape[:2]
        grid = choose_grid(size, self.config, grid)
        working_image = self.mode.working_image(image, grid)
        windows = self.windows(working_image.shape[:2], grid, overlap)
        return Job(working_image, windows, size)

    def windows(
        self,
        size: tuple[int, int],
        grid: tuple[int, int] | None = None,
        overlap: float | None = None,
    ) -> Grid:
        """The windows of an image of this size; those stored with the weights are the default."""
        rows, cols = choose_grid(size, self.config, grid)
        if overlap is None:
            overlap = self.config.eval.overlap
        return grids.cover_image(*size, rows, cols, overlap)

    def run(
        self,
        job: Job,
        coarse_depth: Shaped[Array | np.ndarray, "..."],
        coarse_normal: Shaped[Array | np.ndarray, "..."],
        progress: ReportProgress = ignore_progress,
    ) -> Iterator[tuple[slice, Result]]:
        """Refine a planned image and yield (rows, their maps) from the top, for any image size.

        Coarse maps are float [H, W] and [H, W, 3], and may be memory-mapped files, which exact mode
        never reads whole. A UserError if they have another shape, another dtype or NaN.
        """
        inputs = self.mode.prepare(
            job.image, np.asanyarray(coarse_depth), np.asanyarray(coarse_normal)
        )
        strips = self._refine_rows(inputs, job.windows, progress)
        if inputs.size != job.size:
            # Resizing mixes the rows of neighbouring strips, so it needs the whole map.
            whole = _join_rows(strips, inputs.size[0])
            strips = [(slice(0, job.size[0]), self._restore_size(whole, job.size))]
        for rows, result in strips:
            depth = inputs.unit.restore(result.depth)
            normal = self.mode.unit_normals(result.normal)
            yield rows, result._replace(depth=depth, normal=normal)

    def _restore_size(self, result: Result, size: tuple[int, int]) -> Result:
        maps = [None if x is None else self.mode.restore_size(x, size) for x in result]
        return Result(*maps)

    def refine(
        self, inputs: RefinerInputs, windows: Grid, progress: ReportProgress = ignore_progress
    ) -> Result:
        """Refine prepared inputs; the maps keep the unit and the size of the inputs."""
        return _join_rows(self._refine_rows(inputs, windows, progress), inputs.size[0])

    def refine_windows(
        self, inputs: RefinerInputs, windows: Grid
    ) -> Float[np.ndarray, "P h w"] | None:
        """Refined depth of every window before blending; None if the model refines no depth."""
        if "depth" not in self.config.model.outputs:
            return None
        depths = []
        for k, offsets in enumerate(self.offsets(inputs, windows)):
            depth = self.mode.window_map(offsets["depth"].value, inputs.depth, windows, k)[..., 0]
            depths.append(self.mode.add_prior(depth, inputs.depth[windows.window(k)]))
        return np.stack(depths)

    def _refine_rows(
        self, inputs: RefinerInputs, windows: Grid, progress: ReportProgress
    ) -> Iterator[tuple[slice, Result]]:
        """Merge all windows with the coarse maps, some rows at a time."""
        patches = self._window_maps(inputs, windows, progress)
        weight = self.mode.blend_weight(windows)
        for rows, merged in grids.merge_windows(patches, windows, weight):
            depth = inputs.depth[rows]
            normal = inputs.normal[rows]
            depth_confidence = None
            normal_confidence = None
            if "depth" in merged:
                depth = self.mode.add_prior(merged["depth"][..., 0], depth)
                depth_confidence = merged["depth_confidence"][..., 0]
            if "normal" in merged:
                normal = self.mode.add_prior(merged["normal"], normal)
                normal_confidence = merged["normal_confidence"][..., 0]
            normal = self.mode.unit_normals(normal)
            yield rows, Result(depth, normal, depth_confidence, normal_confidence)

    def _window_maps(
        self, inputs: RefinerInputs, windows: Grid, progress: ReportProgress
    ) -> Iterator[dict[str, Float[np.ndarray, "h w _"]]]:
        """For each window, the maps that are blended with those of other windows."""
        priors = {"depth": inputs.depth, "normal": inputs.normal}
        for k, offsets in enumerate(self.offsets(inputs, windows, progress)):
            maps = {}
            for name, (value, confidence) in offsets.items():
                maps[name] = self.mode.window_map(value, priors[name], windows, k)
                maps[f"{name}_confidence"] = self.mode.resize_to_window(
                    confidence[..., None], windows
                )
            yield maps

    def offsets(
        self, inputs: RefinerInputs, windows: Grid, progress: ReportProgress = ignore_progress
    ) -> Iterator[dict[str, Offsets]]:
        """Run the network; yields the offsets of one window after the other, at the patch size."""
        count = windows.count
        report = self._stage_progress(count, progress)
        resident = self.resident or offload.patches_that_fit(self.config.model, count) or count
        # Not bound to a name: only the layers stay in memory once attention is done.
        layers = self._attend(
            self._encode(inputs, windows, resident, report),
            self.mode.positions(windows),
            resident,
            report,
        )
        size = chunk_of(self.config.model, count)
        for start in range(0, count, size):
            stop = min(start + size, count)
            chunk = _pad(layers[:, 0, start:stop], size, axis=1)
            offsets = jax.device_get(self.stages.heads(self.params, chunk[:, None]))
            report("heads", stop / count)
            for i in range(stop - start):
                yield {
                    name: Offsets(values.value[0, i], values.confidence[0, i])
                    for name, values in offsets.items()
                }

    def _encode(
        self, inputs: RefinerInputs, windows: Grid, resident: int, report: StageProgress
    ) -> Float[Array | np.ndarray, "P N D"]:
        """Tokens of all patches, on the host if not all patches fit on the device."""
        count = windows.count
        offloaded = resident < count
        size = chunk_of(self.config.model, count)
        tokens = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            cuts = [self.mode.window_inputs(inputs, windows, k) for k in range(start, stop)]
            image = _pad(np.stack([cut.image for cut in cuts]), size)
            depth = _pad(np.stack([cut.depth for cut in cuts]), size)
            normal = _pad(np.stack([cut.normal for cut in cuts]), size)
            chunk = self.stages.encode(self.params, image[None], depth[None], normal[None])
            chunk = chunk[0, : stop - start]
            tokens.append(jax.device_get(chunk) if offloaded else chunk)
            report("encode", stop / count)
        return np.concatenate(tokens) if offloaded else jnp.concatenate(tokens)

    def _attend(
        self,
        tokens: Float[Array | np.ndarray, "P N D"],
        positions: Float[np.ndarray, "P N 2"],
        resident: int,
        report: StageProgress,
    ) -> Float[Array | np.ndarray, "K 1 P M C"]:
        """The layers that the DPT heads read, on the host if not all patches fit."""
        if resident >= len(tokens):
            layers = self.stages.attend(self.params, tokens[None], positions[None])
            report("attend", 1.0)
            return layers
        config = self.config
        layers = offload.attend(
            self.params,
            config.model,
            tokens,
            positions,
            resident,
            config.eval.pool,
            partial(report, "attend"),
        )
        return layers[:, None]

    def _stage_progress(self, count: int, progress: ReportProgress) -> StageProgress:
        """Turn the share of a stage that is done into percent of the whole work, by FLOPs."""
        cost = flops.forward(self.config.model, count, self.config.eval.pool)
        costs = {"encode": cost.encoder, "attend": cost.pairs, "heads": cost.dpt_heads}
        before = {
            "encode": 0.0,
            "attend": cost.encoder,
            "heads": cost.encoder + cost.pairs,
        }

        def report(stage: str, share: float) -> None:
            done = (before[stage] + share * costs[stage]) / cost.total
            progress(int(100 * done + 1e-6), 100)  # 100 is reported only at the end

        return report


def _report_share(progress: ReportProgress, image: int, images: int, done: int, count: int) -> None:
    """Report the progress of one of several images as that of all of them."""
    progress(image * count + done, images * count)


def _stack(results: Sequence[Result]) -> Result:
    """The maps of several images of one size."""
    maps = []
    for values in zip(*results, strict=True):
        maps.append(None if values[0] is None else np.stack(values))
    return Result(*maps)


def _join_rows(strips: Iterable[tuple[slice, Result]], height: int) -> Result:
    """The whole maps of which strips are rows."""
    whole = None
    for rows, strip in strips:
        if whole is None:
            empty = [
                None if x is None else np.empty((height, *x.shape[1:]), x.dtype) for x in strip
            ]
            whole = Result(*empty)
        for target, x in zip(whole, strip, strict=True):
            if x is not None:
                target[rows] = x
    return whole


def chunk_of(model: Model, patches: int) -> int:
    """How many patches are encoded, and passed to the heads, at a time."""
    pixels = HEAD_PIXELS
    if jax.default_backend() == "cpu":
        # Larger chunks would cost memory, and time too, since maps would leave the caches.
        pixels = HEAD_PIXELS // 8
    chunk = max(pixels // math.prod(model.patch_size), 1)
    return min(chunk, patches)


def _pad(
    x: Shaped[Array | np.ndarray, "..."], size: int, axis: int = 0
) -> Shaped[Array | np.ndarray, "..."]:
    """Repeat the last patch, so that every chunk has the same shape and compiles once."""
    count = x.shape[axis]
    if count == size:
        return x
    indices = np.minimum(np.arange(size), count - 1)
    return x.take(indices, axis)
