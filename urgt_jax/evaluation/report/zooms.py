"""Crops of an image's maps at their own size, where maps are hard to get right."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.evaluation.report.layers import Layers, relative_error
from urgt_jax.images.grid import Grid

CROP = (180, 240)  # height and width of a crop, pixels
EXAMPLE_WIDTH = 480  # pixels, to which whole images are reduced
THIN_SHARE = 100  # things narrower than the image's height over this are thin
STANDS_OUT = 1.15  # how much nearer a thin thing is than what is on both sides of it


def zooms(layers: Layers, windows: Grid) -> list[Layers]:
    """A crop with the most thin structures, and one around the worst corner of four patches.

    Either is left out if the image has none.
    """
    crops = []
    thin_pixels = _crop_sums(_thin(layers))
    if thin_pixels.max() > 0:
        top, left = np.unravel_index(thin_pixels.argmax(), thin_pixels.shape)
        crops.append(_crop(layers, int(top), int(left)))
    errors = _crop_sums(_error(layers))
    corners = []
    for y in windows.tops[1:]:
        for x in windows.lefts[1:]:
            top = min(max(y - CROP[0] // 2, 0), errors.shape[0] - 1)
            left = min(max(x - CROP[1] // 2, 0), errors.shape[1] - 1)
            corners.append((top, left))
    if corners:
        worst = max(corners, key=lambda corner: errors[corner])
        crops.append(_crop(layers, *worst))
    return crops


def reduced(layers: Layers) -> Layers:
    """The whole image's maps, with every n-th pixel so that they are at most EXAMPLE_WIDTH wide."""
    step = -(-layers.valid.shape[1] // EXAMPLE_WIDTH)
    return _change_maps(layers, lambda x: x[::step, ::step])


def _crop(layers: Layers, top: int, left: int) -> Layers:
    height, width = CROP
    return _change_maps(layers, lambda x: x[top : top + height, left : left + width])


def _change_maps(layers: Layers, change: Callable[[np.ndarray], np.ndarray]) -> Layers:
    """Apply a function to all maps, and copy the results so that the large maps can be freed."""
    return Layers(
        image=change(layers.image).copy(),
        depth={name: change(x).copy() for name, x in layers.depth.items()},
        normal={name: change(x).copy() for name, x in layers.normal.items()},
        valid=change(layers.valid).copy(),
        normal_valid=change(layers.normal_valid).copy(),
    )


def _thin(layers: Layers) -> Bool[np.ndarray, "H W"]:
    """Where the truth is nearer than the pixels at some distance on both sides, along an axis."""
    truth = np.where(layers.valid, layers.depth.get("truth", 0), np.nan)
    reach = max(truth.shape[0] // THIN_SHARE, 1)
    thin = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        along = np.moveaxis(truth, axis, 0)
        length = max(len(along) - 2 * reach, 0)
        before = along[:length]
        middle = along[reach : reach + length]
        after = along[2 * reach : 2 * reach + length]
        # fmax ignores unknown pixels on one side.
        np.moveaxis(thin, axis, 0)[reach : reach + length] |= middle > STANDS_OUT * np.fmax(
            before, after
        )
    return thin


def _error(layers: Layers) -> Float[np.ndarray, "H W"]:
    """The error of the last candidate's 1/depth, or of its normals without depth; at most 1."""
    for maps, valid in ((layers.depth, layers.valid), (layers.normal, layers.normal_valid)):
        names = [name for name in maps if name != "truth"]
        if not names or "truth" not in maps:
            continue
        prediction = maps[names[-1]]
        truth = maps["truth"]
        if truth.ndim == 2:
            error = relative_error(prediction, truth)
        else:
            error = np.abs(prediction - truth).sum(-1)
        return np.where(valid & (error > 0), np.minimum(error, 1), 0)  # NaN counts as 0
    return np.zeros(layers.valid.shape, np.float32)


def _crop_sums(x: np.ndarray) -> Float[np.ndarray, "h w"]:
    """The sum over every crop that is inside the image, by its top left pixel."""
    height = min(CROP[0], x.shape[0])
    width = min(CROP[1], x.shape[1])
    total = np.pad(x.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:]
    return sums - total[height:, :-width] + total[:-height, :-width]
