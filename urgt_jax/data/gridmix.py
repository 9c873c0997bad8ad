"""GridMix: at each step one block of M x M patches of every image, M drawn for all hosts alike."""

import numpy as np

from urgt_jax import grid
from urgt_jax.config import Config
from urgt_jax.data import priors
from urgt_jax.data.augment import jitter
from urgt_jax.data.sources import Picture, Pictures
from urgt_jax.errors import WrongChoice
from urgt_jax.pictures import resized

Batch = dict[str, np.ndarray]


def block_side(config: Config, step: int) -> int:
    """M of a step: a function of the seed and the step, so that all hosts agree."""
    draw = np.random.default_rng([config.seed, 1, step]).random()
    return int(min(np.searchsorted(np.cumsum(config.data.mix), draw, side="right"), 3)) + 1


def _flip(p: Picture) -> Picture:
    """The picture as in a mirror: x components of normals change sign."""
    mirror = np.array([-1, 1, 1], np.float32)
    parts = {name: x for name, x in p._asdict().items() if getattr(x, "ndim", 0) > 1}
    parts = {name: np.ascontiguousarray(np.flip(x, 1)) for name, x in parts.items()}
    for name in ("normal", "coarse_normal"):
        if name in parts:
            parts[name] = parts[name] * mirror
    if p.intrinsics is not None:
        fx, fy, cx, cy = p.intrinsics
        parts["intrinsics"] = np.array([fx, fy, p.image.shape[1] - cx, cy], np.float32)
    return p._replace(**parts)


def patches(
    pictures: Pictures, index: int, config: Config, m: int, rng: np.random.Generator
) -> Batch:
    """A block of m x m patches of a picture at the process shape, with targets."""
    flip = rng.random() < 0.5
    height, width = pictures.size(index)
    row, col = rng.integers(0, 5 - m, 2)
    batch = block_of(pictures, index, config, grid.block(height, width, m, row, col), flip)
    if config.data.jitter:
        batch["image"] = jitter(batch["image"], rng, config.data.jitter)
    return batch


def block_of(
    pictures: Pictures, index: int, config: Config, windows: grid.Grid, flip: bool = False
) -> Batch:
    """The given windows of a picture, or of its mirror image, at the process shape; reads no more.

    Origins are in tokens, over the whole picture.
    """
    rows, cols = windows.bounds
    if flip:
        width = windows.picture[1]
        cols = slice(width - cols.stop, width - cols.start)
    block = pictures.read(index, (rows, cols))
    block = _flip(block) if flip else block
    batch = _cut(block, config, windows.within())
    scale = np.array(config.model.tokens) / windows.patch
    batch["origins"] = (windows.origins * scale).astype(np.float32)
    return batch


def _cut(block: Picture, config: Config, windows: grid.Grid) -> Batch:
    """What a step needs of every window."""
    process, limit = config.model.process, config.data.max_depth
    goal = priors.target(block.depth, block.valid, block.fit, config.prior.kind, limit)
    maps = {
        "image": (block.image, True),
        "coarse_depth": (block.coarse_depth, True),
        "coarse_normal": (block.coarse_normal, True),
        "target": (goal, False),
        "valid": (block.valid, False),
    }
    exact = config.loss.target == "exact"
    if "normal" in config.model.outputs:
        _check_normals(block, config)
        maps |= {"normal": (block.normal, False)} if exact else {"depth": (block.depth, False)}
    batch = {
        name: np.stack([resized(window, process, lerp) for window in grid.cut(x, windows)])
        for name, (x, lerp) in maps.items()
    }
    if "depth" in maps:
        scale = np.array(process) / windows.patch
        cameras = [_camera(block.intrinsics, at, scale) for at in windows.origins]
        batch["intrinsics"] = np.stack(cameras)
    return batch


def _check_normals(block: Picture, config: Config) -> None:
    """Fails where the normals' target cannot be had."""
    if config.loss.target == "exact" and block.normal is None:
        raise WrongChoice(
            f"loss.target exact: {config.data.source} has no exact normals, set it to pseudo"
        )
    if block.intrinsics is None:
        raise WrongChoice(
            f"data.source {config.data.source} has no intrinsics, without which depth tells no "
            "normals: give them (docs/datasets.md) or set --model.outputs depth"
        )


def _camera(intrinsics: np.ndarray, at: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Intrinsics of a window that was enlarged by `scale` (rows, columns)."""
    fx, fy, cx, cy = intrinsics
    y, x = scale
    return np.array([fx * x, fy * y, (cx - at[1]) * x, (cy - at[0]) * y], np.float32)
