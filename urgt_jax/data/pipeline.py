"""Batches for training: batch k of host p is a function of the seed and k, whoever asks."""

from collections.abc import Iterator
from functools import lru_cache

import grain
import numpy as np

from urgt_jax.config import Config
from urgt_jax.data.gridmix import Batch, block_side, patches
from urgt_jax.data.sources import Pictures, open_pictures

AHEAD = 4  # batches that are prepared before they are asked for


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of pictures in an epoch."""
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


class Batches:
    """All batches of one host, by step."""

    def __init__(self, config: Config, host: int = 0, hosts: int = 1, source: Pictures = None):
        self.config, self.host, self.hosts = config, host, hosts
        self.source = source if source is not None else open_pictures(config, "train")

    def __len__(self) -> int:
        return self.config.optim.steps

    def __getitem__(self, step: int) -> Batch:
        m = block_side(self.config, step)
        share = self.config.data.images(m) // self.hosts
        items = [self._item(step, self.host * share + row, m) for row in range(share)]
        return {name: np.stack([item[name] for item in items]) for name in items[0]}

    def _item(self, step: int, row: int, m: int) -> Batch:
        """Row `row` of the global batch: neither hosts nor workers enter the draw."""
        seed, count = self.config.seed, len(self.source)
        number = step * self.config.data.images(1) + row
        index = int(_order(seed, number // count, count)[number % count])
        rng = np.random.default_rng([seed, 3, step, row])
        return patches(self.source, index, self.config, m, rng)


def batches(config: Config, start: int, host: int = 0, hosts: int = 1, source=None) -> Iterator:
    """The host's batches from a step on, prepared ahead by threads or worker processes."""
    data = config.data
    steps = grain.MapDataset.source(Batches(config, host, hosts, source))[start:]
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=AHEAD)
    ahead = steps.to_iter_dataset(options)
    if data.workers:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which nobody else parses
        ahead = ahead.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=1)
        )
    return iter(ahead)
