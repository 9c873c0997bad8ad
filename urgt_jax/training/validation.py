"""The error on a few held-out blocks of every M, which a run can adapt its mix by."""

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from urgt_jax.config import Config
from urgt_jax.data.gridmix import SIDES, Batch, held_out
from urgt_jax.data.sources import open_pictures
from urgt_jax.training import sharding
from urgt_jax.training.step import held_out_error

BLOCKS = 8  # of each M at least, of as many pictures


class Validation:
    """Measures weights on blocks of the split `val`, always the same ones."""

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.pictures = open_pictures(config, "val", keep=True)

    def __call__(self, params: dict) -> Float[np.ndarray, "4"]:
        """The loss, weighted as in training, of blocks of each M; 0 where the mix has none."""
        sides = sharding.sides(self.config)
        found = [self._error(params, m) if m in sides else 0.0 for m in SIDES.tolist()]
        return np.array(found, np.float32)

    def _error(self, params: dict, m: int) -> float:
        error, rows = held_out_error(self.config, self.mesh), self.config.data.images(m)
        found = [error(params, self._batch(start, rows, m)) for start in range(0, BLOCKS, rows)]
        return float(np.mean(jax.device_get(found)))

    def _batch(self, start: int, rows: int, m: int) -> Batch:
        """Some blocks, of which this process prepares its share."""
        host, hosts = sharding.share(self.mesh)
        share = rows // hosts
        first = start + host * share
        blocks = [held_out(self.pictures, first + i, self.config, m) for i in range(share)]
        batch = {name: np.stack([block[name] for block in blocks]) for name in blocks[0]}
        return sharding.on_mesh(batch, self.mesh)
