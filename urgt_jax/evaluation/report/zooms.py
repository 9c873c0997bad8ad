"""Cut-outs of a picture's maps at their own size, where maps are hard to get right."""

import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.evaluation.report.layers import Layers, relative_error
from urgt_jax.images.grid import Grid

WINDOW = (180, 240)  # height and width of a cut-out, pixels
EXAMPLE = 480  # pixels of width, to which whole pictures are reduced
THIN = 100  # what is narrower than the picture's height over this counts as thin
STANDS_OUT = 1.15  # how much nearer than what is on both sides of it


def zooms(layers: Layers, windows: Grid) -> list[Layers]:
    """Where most thin things are, if any, and around the worst corner of four patches, if any."""
    share = _sums(_thin(layers), WINDOW)
    found = []
    if share.max() > 0:
        found.append(_cut(layers, np.unravel_index(share.argmax(), share.shape)))
    corners = [(y, x) for y in windows.tops[1:] for x in windows.lefts[1:]]
    if corners:
        error = _sums(_error(layers), WINDOW)
        places = [_inside(y - WINDOW[0] // 2, x - WINDOW[1] // 2, error) for y, x in corners]
        found.append(_cut(layers, max(places, key=lambda place: error[place])))
    return found


def reduced(layers: Layers) -> Layers:
    """A whole picture's maps without so many rows and columns that it is no wider than EXAMPLE."""
    step = -(-layers.valid.shape[1] // EXAMPLE)
    return _each(layers, lambda x: x[::step, ::step])


def _each(layers: Layers, change) -> Layers:
    sides = lambda maps: {side: change(x).copy() for side, x in maps.items()}  # noqa: E731
    image, valid, known = (change(x).copy() for x in (layers[0], *layers[3:]))
    return Layers(image, sides(layers.depth), sides(layers.normal), valid, known)


def _cut(layers: Layers, place: tuple[int, int]) -> Layers:
    (top, left), (height, width) = place, WINDOW
    return _each(layers, lambda x: x[top : top + height, left : left + width])


def _inside(top: int, left: int, places: np.ndarray) -> tuple[int, int]:
    return tuple(min(max(x, 0), n - 1) for x, n in zip((top, left), places.shape, strict=True))


def _thin(layers: Layers) -> Bool[np.ndarray, "H W"]:
    """Where the truth is nearer than on both sides, a little further on in either direction."""
    truth = np.where(layers.valid, layers.depth.get("truth", 0), np.nan)
    reach = max(truth.shape[0] // THIN, 1)
    thin = np.zeros(truth.shape, bool)
    for axis in (0, 1):
        n = truth.shape[axis] - 2 * reach
        before, middle, after = (
            np.moveaxis(truth, axis, 0)[start : start + n] for start in (0, reach, 2 * reach)
        )
        inner = np.moveaxis(thin, axis, 0)[reach : reach + n]
        inner |= middle > STANDS_OUT * np.fmax(before, after)
    return thin


def _error(layers: Layers) -> Float[np.ndarray, "H W"]:
    """Of what comes last beside the truth, of 1/metres in proportion, or of normals."""
    for maps, known in ((layers.depth, layers.valid), (layers.normal, layers.normal_valid)):
        sides = [side for side in maps if side != "truth"]
        if sides and "truth" in maps:
            found, truth = maps[sides[-1]], maps["truth"]
            flat = truth.ndim == 2
            error = relative_error(found, truth) if flat else np.abs(found - truth).sum(-1)
            return np.where(known & (error > 0), np.minimum(error, 1), 0)  # NaN counts nothing
    return np.zeros(layers.valid.shape, np.float32)


def _sums(x: np.ndarray, window: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """The sum of every window that lies inside, by its top left pixel."""
    high, wide = (min(n, m) for n, m in zip(window, x.shape, strict=True))
    total = np.pad(x.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
