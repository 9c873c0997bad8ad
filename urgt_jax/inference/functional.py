"""Refinement in three functions, for use inside of other JAX programs.

    batch = urgt_jax.patchify(image, coarse_depth, coarse_normal, grid=(4, 4), model=config.model)
    maps = urgt_jax.apply(params, config.model, batch)
    depth, normal = urgt_jax.merge(maps, batch)

`apply` is a pure function of JAX arrays, for jit, grad, vmap and shard_map. `patchify` and
`merge` run on the host, in NumPy. The three together give what `Refiner` gives in exact mode.
"""

import jax
import numpy as np
from jaxtyping import Array, Float, Shaped

from urgt_jax.config import Config, Data, Model, Prior
from urgt_jax.data.priors.units import PriorUnit
from urgt_jax.errors import require
from urgt_jax.images import grid as grids
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.grid import Grid
from urgt_jax.images.resize import resize_map
from urgt_jax.inference.modes import ExactMode
from urgt_jax.models.apply import Batch, Maps


class PatchBatch(Batch):
    """A batch for `apply`, and what `merge` needs to put its patches together.

    `windows` is static: it is part of the structure of this pytree, not one of its arrays.
    """

    windows: Grid
    whole_depth: Float[Array | np.ndarray, "*B H W"]  # coarse depth, in the network's unit
    whole_normal: Float[Array | np.ndarray, "*B H W 3"]  # coarse normals, unit length
    depth_low: Float[Array | np.ndarray, "B"]  # the user's depth is depth * scale + low
    depth_scale: Float[Array | np.ndarray, "B"]


def patchify(
    image: Shaped[Array | np.ndarray, "..."],
    coarse_depth: Shaped[Array | np.ndarray, "..."],
    coarse_normal: Shaped[Array | np.ndarray, "..."],
    grid: tuple[int, int] = (4, 4),
    overlap: float = 0.0,
    *,
    model: Model,
    prior: Prior = Prior(),  # noqa: B008
    max_depth: float = Data().max_depth,
) -> PatchBatch:
    """Cut an image, or a batch of images of one size, into the patches that `apply` takes.

        batch = urgt_jax.patchify(image, coarse_depth, coarse_normal, (4, 4), model=config.model)
        maps = urgt_jax.apply(params, config.model, batch)
        depth, normal = urgt_jax.merge(maps, batch)

    The image is uint8 [H, W, 3], the coarse maps are float [H, W] and [H, W, 3]; B images are
    stacked in front. A UserError if they do not fit each other. Weights for metric depth need
    `prior=config.prior` and `max_depth=config.data.max_depth` too.
    """
    images = np.asarray(image)
    depths = np.asarray(coarse_depth)
    normals = np.asarray(coarse_normal)
    require(
        images.ndim in (3, 4) and images.shape[-1] == 3 and images.dtype == np.uint8,
        f"the image has shape {images.shape} and dtype {images.dtype}: give uint8 [H, W, 3], or "
        "[B, H, W, 3]",
    )
    single = images.ndim == 3
    if single:
        images = images[None]
        depths = depths[None]
        normals = normals[None]
    require(
        len(images) == len(depths) == len(normals),
        f"there are {len(images)} images, {len(depths)} coarse depth maps and {len(normals)} "
        "coarse normal maps: give as many of each",
    )
    mode = ExactMode(Config(model=model, prior=prior, data=Data(max_depth=max_depth)))
    windows = grids.cover_image(*images.shape[1:3], *grid, overlap)
    inputs = []
    cuts = []
    for arrays in zip(images, depths, normals, strict=True):
        prepared = mode.prepare(*arrays)
        inputs.append(prepared)
        for k in range(windows.count):
            cuts.append(mode.window_inputs(prepared, windows, k))
    tokens_per_pixel = np.array(model.tokens) / windows.patch
    origins = (windows.origins * tokens_per_pixel).astype(np.float32)
    whole_depths = np.stack([prepared.depth[:] for prepared in inputs])
    whole_normals = np.stack([prepared.normal[:] for prepared in inputs])

    def stack(patches: list[np.ndarray]) -> np.ndarray:
        """[B, P, ...] of the patches of all images."""
        return np.stack(patches).reshape(len(images), windows.count, *patches[0].shape)

    return {
        "image": stack([cut.image for cut in cuts]),
        "coarse_depth": stack([cut.depth for cut in cuts]),
        "coarse_normal": stack([cut.normal for cut in cuts]),
        "origins": np.stack([origins] * len(images)),
        "windows": windows,
        "whole_depth": whole_depths[0] if single else whole_depths,
        "whole_normal": whole_normals[0] if single else whole_normals,
        "depth_low": np.array([prepared.unit.low for prepared in inputs], np.float32),
        "depth_scale": np.array([prepared.unit.scale for prepared in inputs], np.float32),
    }


def merge(
    maps: Maps, batch: PatchBatch
) -> tuple[Float[np.ndarray, "*B H W"], Float[np.ndarray, "*B H W 3"]]:
    """Put refined patches together: depth in the unit of the coarse depth, and unit normals.

        maps = urgt_jax.apply(params, config.model, batch)
        depth, normal = urgt_jax.merge(maps, batch)

    Both have the shape of the coarse maps that `patchify` was given. Where patches overlap, their
    offsets are averaged with weights that fall towards the border of a patch.
    """
    refined = {name: maps[name] for name in ("depth", "normal")}  # not the large features
    maps, batch = jax.device_get((refined, batch))
    windows = batch["windows"]
    # As in exact mode, the offsets are resized and added to the coarse maps at full resolution.
    depth_offsets = maps["depth"] - batch["coarse_depth"]
    normal_offsets = maps["normal"] - batch["coarse_normal"]
    depths = batch["whole_depth"].reshape(-1, *windows.image_size)
    normals = batch["whole_normal"].reshape(-1, *windows.image_size, 3)
    refined_depths = []
    refined_normals = []
    for i in range(len(depths)):
        unit = PriorUnit(batch["depth_low"][i], batch["depth_scale"][i])
        depth_offset = _merge_patches(depth_offsets[i][..., None], windows)[..., 0]
        refined_depths.append(unit.restore(depths[i] + depth_offset))
        normal_offset = _merge_patches(normal_offsets[i], windows)
        refined_normals.append(unit_normals(normals[i] + normal_offset))
    depth = np.stack(refined_depths).reshape(batch["whole_depth"].shape)
    normal = np.stack(refined_normals).reshape(batch["whole_normal"].shape)
    return depth, normal


def _merge_patches(
    patches: Float[np.ndarray, "P h w C"], windows: Grid
) -> Float[np.ndarray, "H W C"]:
    """Resize patches to their windows and blend them where they overlap."""
    resized = ({"map": resize_map(patch, windows.patch)} for patch in patches)
    strips = grids.merge_windows(resized, windows, grids.centre_weight(*windows.patch))
    return np.concatenate([strip["map"] for _, strip in strips])
