"""From image files and coarse map files to files of refined maps."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from etils.epath import Path, PathLike

from urgt_jax.errors import UserError, require
from urgt_jax.images.colour import colour_normal, colour_range, colour_values
from urgt_jax.images.files import SUFFIXES, map_writer, read_map, write_image
from urgt_jax.images.rows import LazyMap, row_slices
from urgt_jax.inference.refiner import Depth, Normal, Result

Strips = Iterator[tuple[slice, Result]]  # rows of an image, from the top, and their maps
MIN_DEPTH = 1e-3  # metres; nearer depth gets the colour of this depth


def find_images(paths: list[Path]) -> list[Path]:
    """Image files, with folders replaced by the images in them.

    Their names must differ, since the names of the refined maps derive from them.
    """
    images: list[Path] = []
    for path in paths:
        if not path.is_dir():
            require(path.is_file(), f"no image at {path}")
            images.append(path)
            continue
        inside = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not _is_drawn_map(file)
        )
        require(bool(inside), f"the folder {path} contains no image ({', '.join(SUFFIXES)})")
        images += inside
    stems = set()
    for image in images:
        require(
            image.stem not in stems,
            f"two images are named {image.stem}: refine them into different folders",
        )
        stems.add(image.stem)
    return images


def _is_drawn_map(path: Path) -> bool:
    """Whether an image is the colour picture that `save_maps` writes next to a map."""
    return path.stem.endswith(("_depth", "_normal")) and path.with_suffix(".npy").is_file()


def find_coarse_map(image: Path, kind: str) -> Path:
    """The coarse map next to an image, `kind` being depth or normal."""
    path = image.with_name(f"{image.stem}_coarse_{kind}.npy")
    require(
        path.is_file(),
        f"{image}: no coarse {kind} map found (looked for {path.name}). Pass --coarse-{kind} FILE, "
        f"or let a network make it with --{kind}-weights FILE.",
    )
    return path


@contextmanager
def naming_image(path: Path) -> Iterator[None]:
    """Put the image's path before user errors, which otherwise say only what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def check_finite(strips: Strips, weights: PathLike) -> Strips:
    """Pass strips on; fail at the first NaN, which only damaged weights cause."""
    for rows, result in strips:
        finite = np.isfinite(result.depth).all() and np.isfinite(result.normal).all()
        require(bool(finite), f"the refined maps contain NaN: the weights {weights} are damaged")
        yield rows, result


def coarse_strips(depth: Depth, normal: Normal) -> Strips:
    """Coarse maps, whose sizes may differ, in the form that `save_maps` takes."""
    for rows in row_slices(max(len(depth), len(normal))):
        yield rows, Result(depth[rows], normal[rows], None, None)


def save_maps(
    strips: Strips,
    depth_size: tuple[int, int],
    normal_size: tuple[int, int],
    prefix: Path,
    metric: bool,
) -> None:
    """Write PREFIX_depth.npy, PREFIX_normal.npy, and a colour picture of both (.png).

    With `metric`, depth is in metres; otherwise it is disparity, which is drawn as it is.
    """

    def named(ending: str) -> Path:
        return prefix.with_name(f"{prefix.name}_{ending}")

    normal_picture = np.empty((*normal_size, 3), np.uint8)
    with ExitStack() as files:
        write_depth = files.enter_context(map_writer(named("depth.npy"), depth_size))
        write_normal = files.enter_context(map_writer(named("normal.npy"), (*normal_size, 3)))
        for rows, result in strips:
            write_depth(result.depth)
            write_normal(result.normal)
            normal_picture[rows] = colour_normal(result.normal)
    write_image(named("normal.png"), normal_picture)
    # The range of the colours is known only now, so depth is read again.
    depth = read_map(named("depth.npy"), "depth", mapped=True)
    disparity = LazyMap(depth, _to_disparity) if metric else depth
    low, high = colour_range(disparity)
    depth_picture = np.empty((*depth_size, 3), np.uint8)
    for rows in row_slices(depth_size[0]):
        depth_picture[rows] = colour_values(disparity[rows], low, high)
    write_image(named("depth.png"), depth_picture)


def _to_disparity(depth: np.ndarray) -> np.ndarray:
    return 1 / np.maximum(depth, MIN_DEPTH)
