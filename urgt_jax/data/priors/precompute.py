"""Makes the coarse maps of a whole data set, several images at a time."""

import os
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils.epath import Path
from jaxtyping import Bool, Float

from urgt_jax.data.priors.networks import Size
from urgt_jax.data.priors.providers import Provider
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.samples import Source
from urgt_jax.errors import WrongChoice, check_skipped, reason, require
from urgt_jax.files import find_paths, write_text
from urgt_jax.progress import Progress

AHEAD = 2  # batches that are read before the devices need them, and that wait to be written


class PreparedImage(NamedTuple):
    """An image that was read and whose maps can be made."""

    name: str
    depth_input: Any  # of the depth provider
    normal_input: Any  # of the normal provider
    depth: Float[np.ndarray, "H W"]  # true depth, metres
    valid: Bool[np.ndarray, "H W"]


class Summary(NamedTuple):
    """The result of a job."""

    count: int  # images in the host's share
    skipped: list[str]  # a line for each image without maps
    list_path: Path  # file with these lines, if there are any


def precompute(
    source: Source,
    depth_provider: Provider,
    normal_provider: Provider,
    stored: StoredPriors,
    host: int = 0,
    hosts: int = 1,
    max_skipped: int | None = None,
) -> Summary:
    """Makes the coarse maps that one host's share of the images still lacks.

    Fails if more than `max_skipped` images are skipped.
    """
    share = range(host, len(source), hosts)
    finished = stored.finished()
    missing = [index for index in share if source.name(index) not in finished]
    done = len(share) - len(missing)
    if done:
        print(f"{stored.folder}: {done} of {len(share)} images are finished already", flush=True)
    progress = Progress(str(stored.folder), len(share), done)

    batches, skipped = group_images(source, depth_provider, normal_provider, missing)
    if skipped:
        check_skipped(len(skipped), max_skipped, skipped[-1])
    read = partial(read_image, source, depth_provider, normal_provider)
    reading: deque[list[Future[PreparedImage]]] = deque()
    writing: deque[list[Future[None]]] = deque()
    threads = min(2 * (AHEAD + 1) * len(jax.local_devices()), os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        while batches or reading:
            # Threads read the next batches while the devices compute this one.
            while batches and len(reading) <= AHEAD:
                reading.append([pool.submit(read, index) for index in batches.popleft()])
            images = []
            for future in reading.popleft():
                try:
                    images.append(future.result())
                except WrongChoice:
                    raise
                except Exception as error:  # a damaged file raises many kinds of error
                    skipped.append(reason(error))
                    check_skipped(len(skipped), max_skipped, skipped[-1])
            if images:
                depths = depth_provider.run([image.depth_input for image in images])
                normals = normal_provider.run([image.normal_input for image in images])
                futures = [
                    pool.submit(stored.write, image.name, depth, normal, image.depth, image.valid)
                    for image, depth, normal in zip(images, depths, normals, strict=True)
                ]
                writing.append(futures)
            # Threads also write the last batches; after the final one, wait for all of them.
            limit = AHEAD if batches or reading else 0
            while len(writing) > limit:
                futures = writing.popleft()
                for future in futures:
                    future.result()
                done += len(futures)
                progress.update(done + len(skipped))
        if missing:
            progress.update(len(share))  # images of the last batch may have been skipped

    list_path = write_skipped_list(stored.folder, skipped, host, hosts)
    return Summary(len(share), skipped, list_path)


def group_images(
    source: Source, depth_provider: Provider, normal_provider: Provider, indices: list[int]
) -> tuple[deque[list[int]], list[str]]:
    """Batches of images that run together, at most one for each device of this host.

    Also returns a line for each image whose size cannot be read.
    """
    groups: dict[tuple[Size, Size], list[int]] = defaultdict(list)
    skipped = []
    for index in indices:
        try:
            size = source.size(index)
        except Exception as error:  # a damaged file raises many kinds of error
            skipped.append(reason(error))
            continue
        groups[depth_provider.input_size(size), normal_provider.input_size(size)].append(index)

    batches: deque[list[int]] = deque()
    batch_size = len(jax.local_devices())
    for input_sizes in sorted(groups):
        group = groups[input_sizes]
        for start in range(0, len(group), batch_size):
            batches.append(group[start : start + batch_size])
    return batches, skipped


def read_image(
    source: Source, depth_provider: Provider, normal_provider: Provider, index: int
) -> PreparedImage:
    """Reads an image and prepares the inputs of both providers."""
    name = source.name(index)
    sample = source.read(index)
    size = sample.image.shape[:2]
    expected = source.size(index)
    require(
        size == expected,
        f"{name} has {size} pixels, but its file header says {expected}: replace the file",
    )
    return PreparedImage(
        name,
        depth_provider.prepare(name, sample),
        normal_provider.prepare(name, sample),
        sample.depth,
        sample.valid,
    )


def write_skipped_list(folder: Path, skipped: list[str], host: int, hosts: int) -> Path:
    """Writes the lines about skipped images in place of an older list, and returns its path."""
    path = folder / ("skipped.txt" if hosts == 1 else f"skipped_{host}.txt")
    path.unlink(missing_ok=True)
    if hosts == 1:
        # A job on one host has tried all images again, also those that several hosts skipped.
        for old in find_paths(folder, "skipped*.txt"):
            old.unlink()
    if skipped:
        write_text(path, "".join(f"{line}\n" for line in skipped))
    return path
