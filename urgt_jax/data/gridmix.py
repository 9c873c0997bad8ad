"""GridMix: at each step one block of M x M patches of every image, M drawn for all hosts alike."""

import numpy as np

from urgt_jax import grid
from urgt_jax.config import Config
from urgt_jax.data import priors
from urgt_jax.data.sources import Picture
from urgt_jax.pictures import resized

Batch = dict[str, np.ndarray]


def block_side(config: Config, step: int) -> int:
    """M of a step: a function of the seed and the step, so that all hosts agree."""
    draw = np.random.default_rng([config.seed, 1, step]).random()
    return int(min(np.searchsorted(np.cumsum(config.data.mix), draw, side="right"), 3)) + 1


def _flip(p: Picture) -> Picture:
    """The picture as in a mirror: x components of normals change sign."""
    mirror = np.array([-1, 1, 1], np.float32)
    turned = [np.ascontiguousarray(np.flip(x, 1)) for x in p if x.ndim > 1]
    image, depth, normal, valid, coarse_depth, coarse_normal = turned
    fx, fy, cx, cy = p.intrinsics
    intrinsics = np.array([fx, fy, p.image.shape[1] - cx, cy], np.float32)
    return Picture(
        image, depth, normal * mirror, valid, intrinsics, coarse_depth, coarse_normal * mirror
    )


def patches(picture: Picture, config: Config, m: int, rng: np.random.Generator) -> Batch:
    """A block of m x m patches of a picture at the process shape, with targets."""
    if rng.random() < 0.5:
        picture = _flip(picture)
    height, width = picture.depth.shape
    row, col = rng.integers(0, 5 - m, 2)
    return block_of(picture, config, grid.block(height, width, m, row, col))


def block_of(picture: Picture, config: Config, windows: grid.Grid) -> Batch:
    """The given windows of a picture at the process shape, with targets."""
    p, data, process = picture, config.data, config.model.process
    goal = priors.target(p.depth, p.valid, p.coarse_depth, config.prior, data.max_depth)
    scale = np.array(process) / windows.patch
    maps = {
        "image": (p.image, True),
        "coarse_depth": (p.coarse_depth, True),
        "coarse_normal": (p.coarse_normal, True),
        "depth": (p.depth, False),
        "target": (goal, False),
        "normal": (p.normal, False),
        "valid": (p.valid, False),
    }
    batch = {
        name: np.stack([resized(window, process, lerp) for window in grid.cut(x, windows)])
        for name, (x, lerp) in maps.items()
    }
    batch["intrinsics"] = np.stack([_camera(p.intrinsics, at, scale) for at in windows.origins])
    batch["origins"] = windows.origins.astype(np.float32)
    return batch


def _camera(intrinsics: np.ndarray, at: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Intrinsics of a window that was enlarged by `scale` (rows, columns)."""
    fx, fy, cx, cy = intrinsics
    y, x = scale
    return np.array([fx * x, fy * y, (cx - at[1]) * x, (cy - at[0]) * y], np.float32)
