"""Makes the coarse maps of a whole data set, several images at a time."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.data.priors.providers import Input, Provider
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.samples import Source
from urgt_jax.errors import UserError, require
from urgt_jax.files import write_text
from urgt_jax.progress import Progress

AHEAD = 2  # batches that are read before the devices are free, or stored while they go on


class Ready(NamedTuple):
    """A picture whose maps can be made."""

    name: str
    inputs: list[Input]  # of depth and normals
    depth: Float[np.ndarray, "H W"]  # metres
    valid: Bool[np.ndarray, "H W"]


def precompute(
    source: Source, makers: list[Provider], stored: StoredPriors, host: int = 0, hosts: int = 1
) -> list[str]:
    """Makes what a host's share still lacks; returns a line for each picture that was skipped."""
    mine, there, skipped = range(host, len(source), hosts), stored.finished(), []
    todo = [i for i in mine if source.name(i) not in there]
    done = len(mine) - len(todo)
    if done:
        print(f"{stored.folder}: {done} of {len(mine)} pictures are there already", flush=True)
    progress = Progress(str(stored.folder), len(mine), done)
    # No more than that many pictures are read ahead and stored behind at a time.
    threads = min(2 * (AHEAD + 1) * len(jax.local_devices()), os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        batches = _batches(source, makers, todo, skipped)
        read = _ahead(pool, partial(_read, source, makers), batches)
        for written in _ahead(pool, stored.write, _made(makers, read, skipped)):
            for future in written:
                future.result()
            done += len(written)
            progress.update(done + len(skipped))
    return skipped


def _batches(source: Source, makers, todo: list[int], skipped: list[str]) -> Iterator[list]:
    """Pictures that run together, one for each device, as arguments of `_read`."""
    shapes = {}
    for index in todo:
        try:
            size = source.size(index)
        except UserError as error:
            skipped.append(str(error))
        else:
            shapes[index] = [maker.shape(size) for maker in makers]
    for _, same in groupby(sorted(shapes, key=shapes.get), shapes.get):
        while batch := list(islice(same, len(jax.local_devices()))):
            yield [(index,) for index in batch]


def _ahead(pool: ThreadPoolExecutor, call, batches) -> Iterator[list[Future]]:
    """Calls in threads, some batches ahead of what is taken."""
    queue = deque()
    for batch in batches:
        queue.append([pool.submit(call, *arguments) for arguments in batch])
        if len(queue) > AHEAD:
            yield queue.popleft()
    yield from queue


def _read(source: Source, makers: list[Provider], index: int) -> Ready:
    """A picture from its files to what the makers want."""
    name, sample, size = source.name(index), source.read(index), source.size(index)
    found = sample.image.shape[:2]
    require(found == size, f"{name} is {found} pixels, but its file said {size}: get it again")
    inputs = [maker.prepare(name, sample) for maker in makers]
    return Ready(name, inputs, sample.depth, sample.valid)


def _made(
    makers: list[Provider], read: Iterator[list[Future]], skipped: list[str]
) -> Iterator[list]:
    """Batches of what `StoredPriors.write` takes."""
    for futures in read:
        batch = []
        for future in futures:
            try:
                batch.append(future.result())
            except UserError as error:
                skipped.append(str(error))
        if batch:
            inputs = zip(*(ready.inputs for ready in batch), strict=True)
            maps = [maker.run(list(x)) for maker, x in zip(makers, inputs, strict=True)]
            yield [
                (ready.name, depth, normal, ready.depth, ready.valid)
                for ready, depth, normal in zip(batch, *maps, strict=True)
            ]


def _report(
    stored: StoredPriors, skipped: list[str], count: int, host: int, hosts: int
) -> list[str]:
    """Keeps the list of skipped pictures, and what to tell of it, if there are any."""
    path = stored.folder / (f"skipped_{host}.txt" if hosts > 1 else "skipped.txt")
    # Alone, a job has seen to all that jobs of several hosts had skipped.
    for old in stored.folder.glob("skipped*.txt") if hosts == 1 else [path]:
        old.unlink(missing_ok=True)
    if not skipped:
        return []
    write_text(path, "".join(" ".join(line.split()) + "\n" for line in skipped))
    return [f"{len(skipped)} of {count} pictures were skipped, see {path}: first {skipped[0]}"]
