"""GridMix: blocks of M x M patches, of every image of a step alike, or packed into equal rows."""

import numpy as np
from jaxtyping import Float, Int

from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.data.augmentation import jitter
from urgt_jax.data.priors.units import depth_target
from urgt_jax.data.sources import PriorSample, PriorSource
from urgt_jax.errors import WrongChoice
from urgt_jax.images import grid
from urgt_jax.images.resize import resize_map

BLOCK_SIDES = np.array([1, 2, 3, 4])
Batch = dict[str, np.ndarray]
Mix = tuple[float, float, float, float] | Float[np.ndarray, "4"]  # chance of each M


def block_side(config: Config, step: int) -> int:
    """M of a step: a function of the seed and the step, so that all hosts agree."""
    return _side(config.data.mix, np.random.default_rng([config.seed, 1, step]))


def _side(mix: Mix, rng: np.random.Generator) -> int:
    return int(min(np.searchsorted(np.cumsum(mix), rng.random(), side="right"), 3)) + 1


def row_sides(config: Config, step: int, row: int) -> list[int]:
    """M of the block in a row of a step's batch, or of the blocks that packed fill it."""
    if not config.data.packed:
        return [block_side(config, step)]
    rng, left, sides = np.random.default_rng([config.seed, 5, step, row]), MAX_BLOCK_PATCHES, []
    while left:
        sides.append(_side(mix_that_fits(config.data.mix, left), rng))
        left -= sides[-1] ** 2
    return sides


def patch_owners(sides: list[int]) -> Int[np.ndarray, "P"]:
    """Which of a row's blocks every patch is of, counted from 0."""
    return np.repeat(np.arange(len(sides), dtype=np.int32), np.square(sides))


def mix_that_fits(mix: Mix, left: int) -> Float[np.ndarray, "4"]:
    """Chance of each M where so many patches of a row are left: the mix's, among those that fit.

    Where it has none of those, the largest fills what nothing else would.
    """
    fits = BLOCK_SIDES**2 <= left
    chances = np.where(fits, mix, 0.0)
    if not chances.any():
        chances[fits.sum() - 1] = 1.0
    return chances / chances.sum()


def mean_blocks_per_row(mix: Mix) -> Float[np.ndarray, "4"]:
    """How many blocks of each M a packed row has in the mean.

    Those of the paper's mix hold 11, 20, 28 and 40 % of the patches: close to the mix itself, as
    where a step is filled by patches.
    """
    means = np.zeros((MAX_BLOCK_PATCHES + 1, 4))
    for left in range(1, MAX_BLOCK_PATCHES + 1):
        chances = mix_that_fits(mix, left)
        drawn = np.flatnonzero(chances)
        means[left] = chances + chances[drawn] @ means[left - BLOCK_SIDES[drawn] ** 2]
    return means[MAX_BLOCK_PATCHES]


def _flip(p: PriorSample) -> PriorSample:
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


def draw_block(
    pictures: PriorSource, index: int, config: Config, m: int, rng: np.random.Generator
) -> Batch:
    """A block of m x m patches of a picture at the process shape, with targets."""
    flip = rng.random() < 0.5
    batch = read_block(
        pictures, index, config, draw_windows(pictures.size(index), config, m, rng), flip
    )
    if config.data.jitter:
        batch["image"] = jitter(batch["image"], rng, config.data.jitter)
    return batch


def draw_windows(
    size: tuple[int, int], config: Config, m: int, rng: np.random.Generator
) -> grid.Grid:
    """One of the blocks of m x m patches of a picture."""
    row, col = rng.integers(0, grid.count_block_positions(*size, m, config.data.overlap))
    return grid.gridmix_block(*size, m, row, col, config.data.overlap)


def read_block(
    pictures: PriorSource, index: int, config: Config, windows: grid.Grid, flip: bool = False
) -> Batch:
    """The given windows of a picture, or of its mirror image, at the process shape; reads no more.

    Origins are in tokens, over the whole picture.
    """
    rows, cols = windows.bounds
    if flip:
        width = windows.image_size[1]
        cols = slice(width - cols.stop, width - cols.start)
    block = pictures.read(index, (rows, cols))
    block = _flip(block) if flip else block
    batch = _cut(block, config, windows.relative_to_bounds())
    scale = np.array(config.model.tokens) / windows.patch
    batch["origins"] = (windows.origins * scale).astype(np.float32)
    return batch


def _cut(block: PriorSample, config: Config, windows: grid.Grid) -> Batch:
    """What a step needs of every window."""
    process, limit = config.model.patch_size, config.data.max_depth
    goal = depth_target(block.depth, block.valid, block.fit, config.prior.kind, limit)
    maps = {
        "image": (block.image, True),
        "coarse_depth": (block.coarse_depth, True),
        "coarse_normal": (block.coarse_normal, True),
        "target": (goal, False),
        "valid": (block.valid, False),
    }
    exact = config.loss.normal_target == "exact"
    if "normal" in config.model.outputs:
        _check_normals(block, config)
        maps |= {"normal": (block.normal, False)} if exact else {"depth": (block.depth, False)}
    batch = {
        name: np.stack(
            [resize_map(window, process, lerp) for window in grid.cut_windows(x, windows)]
        )
        for name, (x, lerp) in maps.items()
    }
    if "depth" in maps:
        scale = np.array(process) / windows.patch
        cameras = [_camera(block.intrinsics, at, scale) for at in windows.origins]
        batch["intrinsics"] = np.stack(cameras)
    return batch


def _check_normals(block: PriorSample, config: Config) -> None:
    """Fails where the normals' target cannot be had."""
    if config.loss.normal_target == "exact" and block.normal is None:
        raise WrongChoice(
            f"loss.normal_target exact: {config.data.source} has no exact normals, set it to pseudo"
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
