"""GridMix: blocks of M x M patches, with one M for all images of a step or packed into rows."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.data.augmentation import jitter
from urgt_jax.data.priors.units import depth_target
from urgt_jax.data.sources import PriorSample, PriorSource
from urgt_jax.errors import WrongChoice
from urgt_jax.images.grid import Grid, count_block_positions, cut_windows, gridmix_block
from urgt_jax.images.resize import resize_map

BLOCK_SIDES = np.array([1, 2, 3, 4])
MIRROR = np.array([-1, 1, 1], np.float32)  # factors of a normal's components in a mirrored image
Batch = dict[str, np.ndarray]
Mix = tuple[float, float, float, float] | Float[np.ndarray, "4"]  # probability of each M


def block_side(config: Config, step: int) -> int:
    """M of a step. It depends on the seed and the step only, so all hosts agree."""
    return _draw_side(config.data.mix, np.random.default_rng([config.seed, 1, step]))


def row_sides(config: Config, step: int, row: int) -> list[int]:
    """M of the block in a row of a step's batch, or of all blocks in a packed row."""
    if not config.data.packed:
        return [block_side(config, step)]
    rng = np.random.default_rng([config.seed, 5, step, row])
    sides = []
    patches_left = MAX_BLOCK_PATCHES
    while patches_left > 0:
        side = _draw_side(mix_that_fits(config.data.mix, patches_left), rng)
        sides.append(side)
        patches_left -= side**2
    return sides


def _draw_side(mix: Mix, rng: np.random.Generator) -> int:
    index = np.searchsorted(np.cumsum(mix), rng.random(), side="right")
    return int(min(index, 3)) + 1  # probabilities may sum to slightly less than 1


def patch_owners(sides: list[int]) -> Int[np.ndarray, "P"]:
    """The number of the block that each patch of a row belongs to, counted from 0."""
    return np.repeat(np.arange(len(sides), dtype=np.int32), np.square(sides))


def mix_that_fits(mix: Mix, patches_left: int) -> Float[np.ndarray, "4"]:
    """The mix restricted to blocks of at most `patches_left` patches.

    If the mix has none of those, the largest that fits has probability 1.
    """
    fits = BLOCK_SIDES**2 <= patches_left
    probabilities = np.where(fits, mix, 0.0)
    if not probabilities.any():
        probabilities[fits.sum() - 1] = 1.0
    return probabilities / probabilities.sum()


def mean_blocks_per_row(mix: Mix) -> Float[np.ndarray, "4"]:
    """The expected number of blocks of each M in a packed row.

    With the paper's mix they hold 11, 20, 28 and 40 % of the patches, close to the mix itself.
    """
    means = np.zeros((MAX_BLOCK_PATCHES + 1, 4))  # by the number of patches that are left
    for patches_left in range(1, MAX_BLOCK_PATCHES + 1):
        probabilities = mix_that_fits(mix, patches_left)
        possible = np.flatnonzero(probabilities)
        rest = patches_left - BLOCK_SIDES[possible] ** 2
        means[patches_left] = probabilities + probabilities[possible] @ means[rest]
    return means[MAX_BLOCK_PATCHES]


def draw_block(
    source: PriorSource, index: int, config: Config, side: int, rng: np.random.Generator
) -> Batch:
    """A random block of side x side patches of an image, or of its mirror image, with targets."""
    flip = rng.random() < 0.5
    windows = draw_windows(source.size(index), config, side, rng)
    batch = read_block(source, index, config, windows, flip)
    if config.data.jitter:
        batch["image"] = jitter(batch["image"], rng, config.data.jitter)
    return batch


def draw_windows(
    size: tuple[int, int], config: Config, side: int, rng: np.random.Generator
) -> Grid:
    """The windows of a random block of side x side patches in an image of that size."""
    overlap = config.data.overlap
    row, column = rng.integers(0, count_block_positions(*size, side, overlap))
    return gridmix_block(*size, side, int(row), int(column), overlap)


def read_block(
    source: PriorSource, index: int, config: Config, windows: Grid, flip: bool = False
) -> Batch:
    """Patches of an image at the model's patch size, with targets; only their pixels are read.

    `flip` means windows of the mirror image. Origins are positions in the whole image, in tokens.
    """
    rows, columns = windows.bounds
    if flip:
        width = windows.image_size[1]
        columns = slice(width - columns.stop, width - columns.start)
    block = source.read(index, (rows, columns))
    if flip:
        block = _flip(block)
    batch = _cut_patches(block, config, windows.relative_to_bounds())
    tokens_per_pixel = np.array(config.model.tokens) / windows.patch
    batch["origins"] = (windows.origins * tokens_per_pixel).astype(np.float32)
    return batch


def _flip(sample: PriorSample) -> PriorSample:
    """The mirror image of a sample."""
    changes = {}
    for name in ("image", "depth", "valid", "normal", "coarse_depth", "coarse_normal"):
        values = getattr(sample, name)
        if values is None:
            continue
        values = np.ascontiguousarray(np.flip(values, 1))
        if name in ("normal", "coarse_normal"):
            values = values * MIRROR
        changes[name] = values
    if sample.intrinsics is not None:
        fx, fy, cx, cy = sample.intrinsics
        width = sample.image.shape[1]
        changes["intrinsics"] = np.array([fx, fy, width - cx, cy], np.float32)
    return sample._replace(**changes)


def _cut_patches(block: PriorSample, config: Config, windows: Grid) -> Batch:
    """What a training step needs of every window."""
    patch_size = config.model.patch_size
    target = depth_target(
        block.depth, block.valid, block.fit, config.prior.kind, config.data.max_depth
    )
    # Inputs are interpolated; ground truth is not mixed across edges.
    batch = {
        "image": _resize_patches(block.image, windows, patch_size, interpolate=True),
        "coarse_depth": _resize_patches(block.coarse_depth, windows, patch_size, interpolate=True),
        "coarse_normal": _resize_patches(
            block.coarse_normal, windows, patch_size, interpolate=True
        ),
        "target": _resize_patches(target, windows, patch_size, interpolate=False),
        "valid": _resize_patches(block.valid, windows, patch_size, interpolate=False),
    }
    if "normal" not in config.model.outputs:
        return batch
    _check_normals(block, config)
    if config.loss.normal_target == "exact":
        batch["normal"] = _resize_patches(block.normal, windows, patch_size, interpolate=False)
    else:
        batch["depth"] = _resize_patches(block.depth, windows, patch_size, interpolate=False)
        scale = np.array(patch_size) / windows.patch
        batch["intrinsics"] = np.stack(
            [_patch_intrinsics(block.intrinsics, origin, scale) for origin in windows.origins]
        )
    return batch


def _resize_patches(
    values: UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W *C"] | Bool[np.ndarray, "H W"],
    windows: Grid,
    patch_size: tuple[int, int],
    interpolate: bool,
) -> np.ndarray:
    """The windows of a map, [P, h, w, ...], each at the patch size."""
    patches = [resize_map(patch, patch_size, interpolate) for patch in cut_windows(values, windows)]
    return np.stack(patches)


def _check_normals(block: PriorSample, config: Config) -> None:
    """Fails if the data set has no target for normals."""
    if config.loss.normal_target == "exact" and block.normal is None:
        raise WrongChoice(
            f"loss.normal_target exact: {config.data.source} has no exact normals, set it to pseudo"
        )
    if block.intrinsics is None:
        raise WrongChoice(
            f"data.source {config.data.source} has no intrinsics, so normals cannot be computed "
            "from its depth: add intrinsics (docs/data-sets.md) or set --model.outputs depth"
        )


def _patch_intrinsics(
    intrinsics: Float[np.ndarray, "4"], origin: Int[np.ndarray, "2"], scale: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "4"]:
    """The intrinsics of a window at `origin` (row, column) that was enlarged by `scale`."""
    fx, fy, cx, cy = intrinsics
    top, left = origin
    y_scale, x_scale = scale
    return np.array(
        [fx * x_scale, fy * y_scale, (cx - left) * x_scale, (cy - top) * y_scale], np.float32
    )
