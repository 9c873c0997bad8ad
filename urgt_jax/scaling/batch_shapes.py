"""The shapes of a batch, and what a step on it costs, without any data."""

import jax
import numpy as np

from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.data import gridmix
from urgt_jax.data.priors.units import DisparityFit
from urgt_jax.data.samples import Window
from urgt_jax.data.sources import PriorSample
from urgt_jax.images import grid
from urgt_jax.models import flops
from urgt_jax.models.apply import Batch


class BlankSource:
    """One small blank image, from which the shapes of a batch are taken."""

    SIZE = (64, 64)

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "blank"

    def scene(self, index: int) -> str:
        return ""

    def size(self, index: int) -> tuple[int, int]:
        return self.SIZE

    def read(self, index: int, window: Window) -> PriorSample:
        rows, cols = window
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        ones = np.ones(shape, np.float32)
        vectors = np.ones((*shape, 3), np.float32)
        return PriorSample(
            image=vectors.astype(np.uint8),
            depth=ones,
            valid=ones > 0,
            intrinsics=np.ones(4, np.float32),
            stereo=None,
            normal=vectors,
            coarse_depth=ones,
            coarse_normal=vectors,
            fit=DisparityFit(1.0, 0.0),
        )


def abstract_batch(config: Config, side: int) -> Batch:
    """Shapes and dtypes of the batches whose blocks are side x side patches, over all hosts."""
    source = BlankSource()
    block_side = 4 if config.data.packed else side
    windows = grid.gridmix_block(*source.size(0), block_side, 0, 0)
    block = gridmix.read_block(source, 0, config, windows)
    if config.data.packed:
        block["owner"] = np.zeros(MAX_BLOCK_PATCHES, np.int32)
    rows = config.data.images(side)
    return {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in block.items()}


def needed_flops(config: Config, side: int) -> float:
    """FLOPs that a training step needs over all devices; packed rows are taken in the mean."""
    if config.data.packed:
        blocks_per_row = gridmix.mean_blocks_per_row(config.data.mix)
    else:
        blocks_per_row = np.eye(4)[side - 1]
    row = 0.0
    for m, count in enumerate(blocks_per_row, 1):
        row += count * flops.training(config, m * m).total
    return config.data.images(side) * row
