"""Refines pictures: python -m urgt_jax.predict photo.jpg --weights runs/tiny --out refined ..."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from urgt_jax import coarse, pictures
from urgt_jax import grid as grids
from urgt_jax.config import require
from urgt_jax.errors import Parser, UserError, exit_status
from urgt_jax.fidelity import FIDELITIES
from urgt_jax.files import folder
from urgt_jax.inference import Refiner, Result, load
from urgt_jax.log import Progress, duration

Strips = Iterator[tuple[slice, Result]]
Size = tuple[int, int]


class Sources(NamedTuple):
    """Where coarse maps come from: a network, or files."""

    depth: coarse.Disparity | None
    normal: coarse.Normals | None


def main() -> None:
    """The command line."""
    told = _parser().parse_args()
    require(told.depth_size is None or told.depth_weights, "--depth-size is for --depth-weights")
    images = _images(told.images)
    files = [_coarse_files(image, told) for image in images]
    out = folder(told.out)
    refiner = load(told.weights, told.dtype, told.fidelity, told.pool, told.resident)
    require(isinstance(refiner, Refiner), f"{told.weights} holds no refiner: it makes coarse maps")
    sources = Sources(
        coarse.load(told.depth_weights, "depth_anything") if told.depth_weights else None,
        coarse.load(told.normal_weights, "metric3d") if told.normal_weights else None,
    )
    for image, paths in zip(images, files, strict=True):
        _refine(refiner, sources, image, paths, told, out)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m urgt_jax.predict",
        description="Refines coarse depth and normals of pictures, at their own size.",
        epilog="Coarse maps given neither as files nor by weights are looked for beside the "
        "picture: photo_coarse_depth.npy and photo_coarse_normal.npy for photo.jpg.",
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE|DIR", help="pictures or folders of them")
    add("--weights", type=Path, required=True, help="a weight file, or a run's work directory")
    add("--out", type=Path, required=True, help="folder for what is made")
    add("--coarse-depth", type=Path, metavar="F.npy", help="float [H, W], the prior's unit")
    add("--coarse-normal", type=Path, metavar="F.npy", help="float [H, W, 3]")
    add("--depth-weights", type=Path, metavar="FILE", help="Depth Anything V2, for coarse depth")
    add("--normal-weights", type=Path, metavar="FILE", help="Metric3D v2, for coarse normals")
    add("--depth-size", type=int, metavar="PIXELS", help="shorter side that Depth Anything sees")
    add("--save-coarse", action="store_true", help="keep the coarse maps too")
    add(
        "--grid",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLS"),
        help="patches, 0 0 for as many as the picture's size and the weights' zoom ask for, up to "
        "the weights' limit; else the weights' own",
    )
    add("--overlap", type=float, help="share of a patch its neighbour sees too")
    add("--fidelity", choices=sorted(FIDELITIES), help="as the paper has it (exact) or the "
        "released code (official); else what the weights were made for")  # fmt: skip
    add("--pool", type=int, metavar="K", help="approximate: patches see means over K x K tokens of "
        "one another, K^2 fewer; else 1, exact")  # fmt: skip
    add("--resident", type=int, metavar="PATCHES", help="whose tokens are on the device at a time; "
        "else as many as fit")  # fmt: skip
    add("--dtype", choices=["float32", "bfloat16"], help="of activations; else as trained")
    return parser


def _images(paths: list[Path]) -> list[Path]:
    """Pictures, with folders replaced by what they hold; names must differ, since outputs do."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        shown = (p for p in path.iterdir() if p.suffix.lower() in pictures.SUFFIXES)
        inside = sorted(p for p in shown if not _made(p))
        if not inside:
            raise UserError(f"the folder {path} holds no picture ({', '.join(pictures.SUFFIXES)})")
        found += inside
    for path in found:
        if not path.is_file():
            raise UserError(f"no picture at {path}")
    stems = [path.stem for path in found]
    twice = next((p for p in found if stems.count(p.stem) > 1), None)
    if twice:
        raise UserError(f"two pictures are named {twice.stem}: refine them into different folders")
    return found


def _made(path: Path) -> bool:
    """Whether it is a colour picture that was written beside the map of its name."""
    return path.stem.endswith(("_depth", "_normal")) and path.with_suffix(".npy").is_file()


def _coarse_files(image: Path, told: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The files with the coarse maps of a picture; None where a network makes the map."""
    found = []
    for kind in ("depth", "normal"):
        given, network = getattr(told, f"coarse_{kind}"), getattr(told, f"{kind}_weights")
        require(
            not (given and network), f"give --coarse-{kind} or --{kind}-weights, not both of them"
        )
        require(
            not given or len(told.images) + told.images[0].is_dir() == 1,
            f"--coarse-{kind} is for one picture; for more, put NAME_coarse_{kind}.npy "
            "beside each picture",
        )
        path = None if network else given or image.with_name(f"{image.stem}_coarse_{kind}.npy")
        hint = "" if given else f": give --coarse-{kind} or --{kind}-weights, or put it there"
        require(path is None or path.is_file(), f"no coarse {kind} at {path}{hint}")
        found.append(path)
    return found[0], found[1]


def _refine(refiner: Refiner, sources: Sources, path: Path, files, told, out: Path) -> None:
    """One picture from files to files."""
    began = time.monotonic()
    image = pictures.read_image(path)
    split, overlap = refiner.split(image.shape[:2], told.grid, told.overlap)
    view = refiner.way.view(image, split)
    count = grids.cover(*view.shape[:2], *split, overlap).count
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
                  pictures.strips(max(len(depth), len(normal))))  # fmt: skip
        sizes = depth.shape, normal.shape[:2]
        save(coarse, *sizes, out / f"{path.stem}_coarse", metric)
    print(
        f"{path}: refined in {duration(time.monotonic() - began)}, {out / path.stem}_*", flush=True
    )


def _coarse_maps(sources: Sources, view: np.ndarray, files, told) -> tuple[np.ndarray, np.ndarray]:
    """Coarse depth and normals of the picture that is worked on, as files or networks give them."""
    if files[0]:
        depth = pictures.load_map(files[0], "coarse depth", mapped=True)
    else:
        print("  coarse depth ...", flush=True)
        depth = sources.depth(view, told.depth_size)
    if files[1]:
        return depth, pictures.load_map(files[1], "coarse normal", mapped=True)
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
        depth = files.enter_context(pictures.map_rows(name("depth.npy"), deep))
        normal = files.enter_context(pictures.map_rows(name("normal.npy"), (*turned, 3)))
        colours = files.enter_context(pictures.image_rows(name("normal.png"), turned))
        for _, result in strips:
            depth(result.depth)
            normal(result.normal)
            colours(pictures.colour_normal(result.normal))
    values = pictures.load_map(name("depth.npy"), "depth", mapped=True)
    near = (lambda x: 1 / np.maximum(x, 1e-3)) if metric else (lambda x: x)
    shown = pictures.Pointwise(values, near)
    low, high = pictures.ends(shown)
    with pictures.image_rows(name("depth.png"), deep) as colours:
        for rows in pictures.strips(deep[0]):
            colours(pictures.ramp(shown[rows], low, high))


if __name__ == "__main__":
    sys.exit(exit_status(main))
