"""Refines one image from files to files."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from urgt_jax.data.priors import networks
from urgt_jax.errors import UserError
from urgt_jax.images import grid as grids
from urgt_jax.images import rows as rows_module
from urgt_jax.images.colour import colour_normal, colour_range, colour_values
from urgt_jax.images.files import map_writer, read_image, read_map, write_image
from urgt_jax.images.rows import LazyMap
from urgt_jax.inference.refiner import Refiner, Result
from urgt_jax.progress import Progress, format_duration

Strips = Iterator[tuple[slice, Result]]
Size = tuple[int, int]


class PriorNetworks(NamedTuple):
    """Where coarse maps come from: a network, or files."""

    depth: networks.DepthNetwork | None
    normal: networks.NormalNetwork | None


def _refine(refiner: Refiner, sources: PriorNetworks, path: Path, files, told, out: Path) -> None:
    """One picture from files to files."""
    began = time.monotonic()
    image = read_image(path)
    split, overlap = refiner.split(image.shape[:2], told.grid, told.overlap)
    view = refiner.way.view(image, split)
    count = grids.cover_image(*view.shape[:2], *split, overlap).count
    pool = refiner.config.eval.pool
    approximate = f", approximate: see means over {pool} x {pool} tokens" if pool > 1 else ""
    print(
        f"{path}: {image.shape[1]} x {image.shape[0]} pixels, {count} patches{approximate}",
        flush=True,
    )
    depth, normal = _coarse_maps(sources, view, files, told)
    tell = Progress(path.name, 1).follow
    strips = refiner.strips(image, depth, normal, grid=split, overlap=overlap, progress=tell)
    metric = refiner.config.prior.kind == "depth"
    size = image.shape[:2]
    save(_checked(strips, path, told.weights), size, size, out / path.stem, metric)
    if told.save_coarse:
        coarse = ((rows, Result(depth[rows], normal[rows], None, None)) for rows in
                  rows_module.row_slices(max(len(depth), len(normal))))  # fmt: skip
        sizes = depth.shape, normal.shape[:2]
        save(coarse, *sizes, out / f"{path.stem}_coarse", metric)
    print(
        f"{path}: refined in {format_duration(time.monotonic() - began)}, {out / path.stem}_*",
        flush=True,
    )


def _coarse_maps(
    sources: PriorNetworks, view: np.ndarray, files, told
) -> tuple[np.ndarray, np.ndarray]:
    """Coarse depth and normals of the picture that is worked on, as files or networks give them."""
    if files[0]:
        depth = read_map(files[0], "coarse depth", mapped=True)
    else:
        print("  coarse depth ...", flush=True)
        depth = sources.depth(view)
    if files[1]:
        return depth, read_map(files[1], "coarse normal", mapped=True)
    print("  coarse normals ...", flush=True)
    return depth, sources.normal(view)


def _checked(strips: Strips, path: Path, weights: Path) -> Strips:
    """The same strips; tells whose they are where they cannot be made."""
    try:
        for rows, result in strips:
            if not (np.isfinite(result.depth).all() and np.isfinite(result.normal).all()):
                raise UserError(f"{weights} gives NaN: the weights are damaged")
            yield rows, result
    except UserError as error:  # the refiner knows maps, but not whose they are
        raise UserError(f"{path}: {error}") from error


def save(strips: Strips, deep: Size, turned: Size, path: Path, metric: bool) -> None:
    """Saves maps, whose sizes are told, and their pictures under names that begin with the path."""
    name = lambda ending: path.with_name(f"{path.name}_{ending}")  # noqa: E731
    with ExitStack() as files:
        depth = files.enter_context(map_writer(name("depth.npy"), deep))
        normal = files.enter_context(map_writer(name("normal.npy"), (*turned, 3)))
        normal_colours = np.empty((*turned, 3), np.uint8)
        for rows, result in strips:
            depth(result.depth)
            normal(result.normal)
            normal_colours[rows] = colour_normal(result.normal)
    write_image(name("normal.png"), normal_colours)
    values = read_map(name("depth.npy"), "depth", mapped=True)
    near = (lambda x: 1 / np.maximum(x, 1e-3)) if metric else (lambda x: x)
    shown = LazyMap(values, near)
    low, high = colour_range(shown)
    depth_colours = np.empty((*deep, 3), np.uint8)
    for rows in rows_module.row_slices(deep[0]):
        depth_colours[rows] = colour_values(shown[rows], low, high)
    write_image(name("depth.png"), depth_colours)
