"""Batches for training: batch k of host p is a function of the seed and k, whoever asks."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import grain
import numpy as np

from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.data.gridmix import Batch, block_side, draw_block, patch_owners, row_sides
from urgt_jax.data.sources import PriorSource, open_training_source
from urgt_jax.errors import UserError, WrongChoice, require

THREADS = 2  # that prepare batches in each process
AHEAD = 4  # batches that are prepared before they are asked for
TRIES = 8  # pictures that are tried for a block before the run stops
UNREAD = "unread"  # where a batch tells of pictures that could not be read, if there were any


class UnreadImage(NamedTuple):
    """A picture that could not be read."""

    index: int
    why: str


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of pictures in an epoch."""
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


class Batches:
    """All batches of one host, by step."""

    def __init__(self, config: Config, host: int = 0, hosts: int = 1, source: PriorSource = None):
        self.config, self.host, self.hosts = config, host, hosts
        self.source = source if source is not None else open_training_source(config)

    def __len__(self) -> int:
        return self.config.optim.steps

    def __getitem__(self, step: int) -> Batch:
        share = self._count(step) // self.hosts
        rows = [self._row(step, self.host * share + row) for row in range(share)]
        batch = {name: np.stack([row[name] for row, _ in rows]) for name in rows[0][0]}
        failed = [failure for _, failures in rows for failure in failures]
        # In the batch itself, which may come from another process.
        return batch | ({UNREAD: failed} if failed else {})

    def _count(self, step: int) -> int:
        """Rows of a step's batch, over all hosts."""
        return self.config.data.images(block_side(self.config, step))

    def block_sides(self, step: int) -> list[int]:
        """M of every block of a step, over all hosts."""
        return [m for row in range(self._count(step)) for m in row_sides(self.config, step, row)]

    def drawn_images(self, step: int) -> list[tuple[int, str]]:
        """Number and name of the picture drawn for each row, or packed each patch, of a step.

        They are those of all hosts. Where one could not be read there is another one instead,
        which is not told here.
        """
        drawn = [
            self._drawn(step, place)
            for row in range(self._count(step))
            for place, m in self._blocks(step, row)
            for _ in range(m * m if self.config.data.packed else 1)
        ]
        return [(index, self.source.name(index)) for index in drawn]

    def _blocks(self, step: int, row: int) -> list[tuple[int, int]]:
        """The blocks of a row: each one's place among the step's pictures, and its M."""
        start = row * MAX_BLOCK_PATCHES if self.config.data.packed else row
        return list(enumerate(row_sides(self.config, step, row), start))

    def _row(self, step: int, row: int) -> tuple[Batch, list[UnreadImage]]:
        """A row of the global batch: neither hosts nor workers enter the draw."""
        blocks = self._blocks(step, row)
        found = [self._block(step, *block) for block in blocks]
        if not self.config.data.packed:
            return found[0]
        parts = [part for part, _ in found]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        batch["owner"] = patch_owners([m for _, m in blocks])
        return batch, [failure for _, failures in found for failure in failures]

    def _block(self, step: int, place: int, m: int) -> tuple[Batch, list[UnreadImage]]:
        """The patches of one picture, and what could not be read instead."""
        failed = []
        for index in self._candidates(step, place):
            rng = np.random.default_rng([self.config.seed, 3, step, place])
            try:
                return draw_block(self.source, index, self.config, m, rng), failed
            except WrongChoice:
                raise
            except (UserError, OSError) as error:
                failed.append(UnreadImage(index, " ".join(str(error).split())))
        raise UserError(f"{failed[0].why} (others tried instead, in vain: {len(failed) - 1})")

    def _drawn(self, step: int, place: int) -> int:
        """The picture at a place, in an order of all pictures before it repeats one."""
        data, count = self.config.data, len(self.source)
        places = data.batch * MAX_BLOCK_PATCHES if data.packed else data.images(1)
        epoch, place = divmod(step * places + place, count)
        return int(_order(self.config.seed, epoch, count)[place])

    def _candidates(self, step: int, place: int) -> Iterator[int]:
        """The picture at a place, then those that stand in for it, drawn from all others.

        The next in the epoch's order would come twice in a batch, and again in every epoch.
        """
        drawn = self._drawn(step, place)
        yield drawn
        rng = np.random.default_rng([self.config.seed, 4, step, place])
        others = rng.permutation(len(self.source))[:TRIES]
        yield from [int(index) for index in others if index != drawn][: TRIES - 1]


class UnreadableImages:
    """The pictures that one process of a run could not read: named, counted, up to a limit."""

    def __init__(self, config: Config, source: PriorSource):
        self.limit, self.source = config.data.max_unreadable, source
        self.seen: set[int] = set()  # the same ones come back in every epoch

    def report(self, batch: Batch) -> Iterator[str]:
        """Removes the batch's note of failures and tells of new ones; fails beyond the limit."""
        for index, why in batch.pop(UNREAD, []):
            if index not in self.seen:
                self.seen.add(index)
                yield self._told(index, why)

    def _told(self, index: int, why: str) -> str:
        what, count = f"picture {self.source.name(index)} cannot be read", len(self.seen)
        require(
            count <= self.limit,
            f"{what}: {why}; pictures that cannot be read so far: {count}, and data.max_unreadable "
            f"allows {self.limit}: repair them, or set --data.max_unreadable higher",
        )
        return f"{what}, others take its place ({count} of at most {self.limit}): {why}"


def batch_iterator(
    config: Config, start: int, host: int = 0, hosts: int = 1, source: PriorSource = None,
) -> Iterator[Batch]:  # fmt: skip
    """The host's batches from a step on, prepared ahead by threads or worker processes."""
    data = config.data
    steps = grain.MapDataset.source(Batches(config, host, hosts, source))[start:]
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    ahead = steps.to_iter_dataset(options)
    return _by_workers(ahead, data.workers) if data.workers else iter(ahead)


def _by_workers(ahead: grain.IterDataset, count: int) -> Iterator[Batch]:
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which nobody else parses
    options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=1)
    try:
        yield from ahead.mp_prefetch(options)
    except RuntimeError as error:  # Grain has no error of its own for it
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            "a process that prepares batches was killed, for lack of memory? lower data.workers "
        ) from error
