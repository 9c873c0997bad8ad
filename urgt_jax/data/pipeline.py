"""Batches for training: batch k of a host is a function of the seed and k."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Int

from urgt_jax.config import MAX_BLOCK_PATCHES, Config
from urgt_jax.data.gridmix import Batch, block_side, draw_block, patch_owners, row_sides
from urgt_jax.data.sources import PriorSource, open_training_source
from urgt_jax.errors import UserError, WrongChoice, require
from urgt_jax.workers import end_with_parent

THREADS = 2  # that prepare batches in each process
AHEAD = 4  # batches that are prepared before they are needed
TRIES = 8  # images that are tried for a block before the run stops
UNREAD = "unread"  # entry of a batch that lists unreadable images, if there were any


class UnreadImage(NamedTuple):
    """An image that could not be read."""

    index: int
    reason: str


class Block(NamedTuple):
    """A block of side x side patches in a step."""

    place: int  # of its image in the order of images that the step draws
    side: int


class Batches:
    """All batches of one host, by step."""

    def __init__(
        self, config: Config, host: int = 0, hosts: int = 1, source: PriorSource | None = None
    ):
        self.config = config
        self.host = host
        self.hosts = hosts
        self.source = open_training_source(config) if source is None else source

    def __len__(self) -> int:
        return self.config.optim.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Arrays by name, and a list of UnreadImage under UNREAD if images were unreadable."""
        rows_per_host = self._row_count(step) // self.hosts
        first = self.host * rows_per_host
        rows = []
        unread = []
        for row in range(first, first + rows_per_host):
            patches, failures = self._read_row(step, row)
            rows.append(patches)
            unread += failures
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        if unread:
            # Passed on in the batch itself, which may come from another process.
            batch[UNREAD] = unread
        return batch

    def block_sides(self, step: int) -> list[int]:
        """M of every block of a step, over all hosts."""
        sides = []
        for row in range(self._row_count(step)):
            sides += row_sides(self.config, step, row)
        return sides

    def drawn_images(self, step: int) -> list[tuple[int, str]]:
        """Number and name of the image drawn for each row of a step, over all hosts.

        For packed rows, of the image drawn for each patch. Images that stand in for unreadable ones
        are not considered.
        """
        images = []
        for row in range(self._row_count(step)):
            for block in self._blocks(step, row):
                index = self._drawn_index(step, block.place)
                image = (index, self.source.name(index))
                repeats = block.side**2 if self.config.data.packed else 1
                images += [image] * repeats
        return images

    def _row_count(self, step: int) -> int:
        """Rows of a step's batch, over all hosts."""
        return self.config.data.images(block_side(self.config, step))

    def _blocks(self, step: int, row: int) -> list[Block]:
        """The blocks of a row."""
        first = row * MAX_BLOCK_PATCHES if self.config.data.packed else row
        sides = row_sides(self.config, step, row)
        return [Block(place, side) for place, side in enumerate(sides, first)]

    def _read_row(self, step: int, row: int) -> tuple[Batch, list[UnreadImage]]:
        """A row of the global batch. It depends neither on hosts nor on workers."""
        blocks = self._blocks(step, row)
        parts = []
        unread = []
        for block in blocks:
            patches, failures = self._read_block(step, block)
            parts.append(patches)
            unread += failures
        if not self.config.data.packed:
            return parts[0], unread
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        batch["owner"] = patch_owners([block.side for block in blocks])
        return batch, unread

    def _read_block(self, step: int, block: Block) -> tuple[Batch, list[UnreadImage]]:
        """The patches of the first image that can be read, and the images that could not."""
        unread = []
        for index in self._candidates(step, block.place):
            rng = np.random.default_rng([self.config.seed, 3, step, block.place])
            try:
                return draw_block(self.source, index, self.config, block.side, rng), unread
            except WrongChoice:
                raise
            except (UserError, OSError) as error:
                unread.append(UnreadImage(index, " ".join(str(error).split())))
        raise UserError(
            f"{unread[0].reason} (images that were tried instead, without success: "
            f"{len(unread) - 1})"
        )

    def _candidates(self, step: int, place: int) -> Iterator[int]:
        """The image drawn for a place, then random others that may stand in for it."""
        drawn = self._drawn_index(step, place)
        yield drawn
        # Not the next in the epoch's order, which would come twice in one batch in every epoch.
        rng = np.random.default_rng([self.config.seed, 4, step, place])
        others = [int(index) for index in rng.permutation(len(self.source))[:TRIES]]
        if drawn in others:
            others.remove(drawn)
        yield from others[: TRIES - 1]

    def _drawn_index(self, step: int, place: int) -> int:
        """The image at a place of a step.

        Every epoch has all images in another order. With batching `patches` or `packed`, blocks
        take only some places of a step, and an epoch leaves out the images at the others.
        """
        data = self.config.data
        places = data.batch * MAX_BLOCK_PATCHES if data.packed else data.images(1)
        epoch, position = divmod(step * places + place, len(self.source))
        return int(_epoch_order(self.config.seed, epoch, len(self.source))[position])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, "N"]:
    """The order of the images in an epoch."""
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


class UnreadableImages:
    """Counts the images that a process of a run could not read, up to a limit."""

    def __init__(self, config: Config, source: PriorSource):
        self.limit = config.data.max_unreadable
        self.source = source
        self.seen: set[int] = set()  # the same images fail in every epoch

    def report(self, batch: dict[str, Any]) -> Iterator[str]:
        """Removes the list of unreadable images from a batch and yields a line for each new one.

        Beyond the limit it raises UserError.
        """
        for image in batch.pop(UNREAD, []):
            if image.index in self.seen:
                continue
            self.seen.add(image.index)
            problem = f"image {self.source.name(image.index)} cannot be read"
            count = len(self.seen)
            require(
                count <= self.limit,
                f"{problem}: {image.reason}; {count} images could not be read so far, but "
                f"data.max_unreadable is {self.limit}: repair them, or set a higher "
                "--data.max_unreadable",
            )
            yield (
                f"{problem}, another takes its place ({count} of at most {self.limit}): "
                f"{image.reason}"
            )


def batch_iterator(
    config: Config,
    start: int,
    host: int = 0,
    hosts: int = 1,
    source: PriorSource | None = None,
) -> Iterator[dict[str, Any]]:
    """The host's batches from a step on, prepared ahead by threads or worker processes."""
    steps = grain.MapDataset.source(Batches(config, host, hosts, source))[start:]
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
    batches = steps.to_iter_dataset(options)
    if config.data.workers:
        return _prefetch_in_workers(batches, config.data.workers)
    return iter(batches)


def _prefetch_in_workers(batches: grain.IterDataset, workers: int) -> Iterator[dict[str, Any]]:
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, which nothing else parses
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    try:
        yield from batches.mp_prefetch(options, worker_init_fn=start_worker)
    except RuntimeError as error:  # Grain has no error class for it
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            "a worker process that prepares batches was killed, perhaps because memory ran out: "
            "lower --data.workers"
        ) from error


def start_worker(worker: int, workers: int) -> None:
    """Prepares a worker process; called first in it.

    It ends with its parent, and its JAX stays on the CPU: the accelerator belongs to the training
    process.
    """
    end_with_parent()
    jax.config.update("jax_platforms", "cpu")
