"""Makes a data set's coarse maps: python -m urgt_jax.fill --data unreal4k /data/u4k ..."""

import argparse
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import metadata
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from urgt_jax.config import TOKEN, require
from urgt_jax.data.priors import STRENGTHS
from urgt_jax.data.samples import Source
from urgt_jax.data.sources import open_source, priors_folder, usual
from urgt_jax.data.stored import StoredPriors, claim
from urgt_jax.errors import Parser, UserError, exit_status
from urgt_jax.files import folder, write_text
from urgt_jax.log import Progress
from urgt_jax.makers import Degraded, Disparity, Input, Maker, Maps, Normals

AHEAD = 2  # batches that are read before the devices are free, or stored while they go on


class Ready(NamedTuple):
    """A picture whose maps can be made."""

    name: str
    inputs: list[Input]  # of depth and normals
    depth: Float[np.ndarray, "H W"]  # metres
    valid: Bool[np.ndarray, "H W"]


def fill(
    source: Source, makers: list[Maker], stored: StoredPriors, host: int = 0, hosts: int = 1
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
            progress.tell(done + len(skipped))
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


def _read(source: Source, makers: list[Maker], index: int) -> Ready:
    """A picture from its files to what the makers want."""
    name, sample, size = source.name(index), source.read(index), source.size(index)
    found = sample.image.shape[:2]
    require(found == size, f"{name} is {found} pixels, but its file said {size}: get it again")
    inputs = [maker.prepare(name, sample) for maker in makers]
    return Ready(name, inputs, sample.depth, sample.valid)


def _made(makers: list[Maker], read: Iterator[list[Future]], skipped: list[str]) -> Iterator[list]:
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


def main() -> None:
    """The command line."""
    told = _parser().parse_args()
    require(told.depth_size is None or told.depth_weights, "--depth-size is for --depth-weights")
    require(told.maps_kind is None or told.depth_maps, "--maps-kind is for --depth-maps")
    depth, normal = told.depth_weights or told.depth_maps, told.normal_weights or told.normal_maps
    require(
        not (depth or normal) if told.degrade else depth and normal,
        "give --degrade alone, or --depth-weights or --depth-maps, and --normal-weights or "
        "--normal-maps",
    )
    host, hosts = told.host or (jax.process_index(), jax.process_count())
    require(0 <= host < hosts, f"--host {host} {hosts}: hosts are numbered from 0 to N - 1")
    name, path = told.data
    splits = [usual(name, split) for split in told.split or [""]]
    sources = [open_source(name, path, split) for split in splits]
    makers = _makers(told)
    reports = []
    for source, split in zip(sources, splits, strict=True):
        stored = claim(folder(priors_folder(path, split, told.out)), _origin(makers, told))
        skipped = fill(source, makers, stored, host, hosts)
        reports += _report(stored, skipped, len(range(host, len(source), hosts)), host, hosts)
    require(not reports, "; ".join(reports))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m urgt_jax.fill",
        description="Makes the coarse depth and normals of a whole data set; what is there already "
        "is kept, so that the same call goes on after a stop.",
    )
    add = parser.add_argument
    add("--data", nargs=2, required=True, metavar=("NAME", "PATH"), help="the set and its folder")
    add("--split", nargs="+", help="parts of the data set; else its usual one")
    add("--out", default="", metavar="DIR", help="where each split's maps get a folder; else "
        "PATH/priors")  # fmt: skip
    add("--degrade", choices=STRENGTHS, help="make both from the truth, that much worse: to score "
        "a refiner where no coarse network is at hand")  # fmt: skip
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--depth-weights", type=Path, metavar="FILE", help="Depth Anything V2")
    depth.add_argument("--depth-maps", type=Path, metavar="DIR", help="NAME.npy or NAME_depth.npy")
    normal = parser.add_mutually_exclusive_group()
    normal.add_argument("--normal-weights", type=Path, metavar="FILE", help="Metric3D v2")
    normal.add_argument("--normal-maps", type=Path, metavar="DIR", help="NAME.npy or "
        "NAME_normal.npy")  # fmt: skip
    add("--depth-size", type=_pixels, metavar="PIXELS", help="shorter side Depth Anything sees")
    add("--maps-kind", choices=["disparity", "depth"], help="what --depth-maps hold: relative "
        "disparity (the default) or metres")  # fmt: skip
    add("--max-depth", type=_metres, default=80.0, metavar="METRES", help="truth is valid below it")
    add("--host", type=int, nargs=2, metavar=("I", "N"), help="do every N-th picture from the I-th")
    return parser


def _pixels(text: str) -> int:
    number = int(text)
    if number < TOKEN:
        raise argparse.ArgumentTypeError(f"at least {TOKEN} pixels are needed")
    return number


def _metres(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("a distance above 0 is needed")
    return number


def _makers(told: argparse.Namespace) -> list[Maker]:
    """What the options ask for, for depth and for normals."""
    if told.degrade:
        return [Degraded(what, told.degrade, told.max_depth) for what in ("depth", "normal")]
    # Folders first, since reading weights takes long.
    depth = Maps(told.depth_maps, "depth") if told.depth_maps else None
    normal = Maps(told.normal_maps, "normal") if told.normal_maps else None
    depth = depth or Disparity(told.depth_weights, told.depth_size)
    return [depth, normal or Normals(told.normal_weights)]


def _origin(makers: list[Maker], told: argparse.Namespace) -> dict:
    """What makes the maps, for priors.json."""
    try:
        version = metadata.version("urgt-jax")
    except metadata.PackageNotFoundError:
        version = "of a checkout"
    return {
        "program": f"urgt-jax {version}",
        "data": told.data[0],
        "kind": told.maps_kind or "disparity",
        "max_depth": told.max_depth,
        "depth": makers[0].origin,
        "normal": makers[1].origin,
    }


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


if __name__ == "__main__":
    sys.exit(exit_status(main))
