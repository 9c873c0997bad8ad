"""Refines pictures: python -m urgt_jax.predict photo.jpg --weights runs/tiny --out refined ..."""

import argparse
import sys
import time
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


class Sources(NamedTuple):
    """Where coarse maps come from: a network, or files."""

    depth: coarse.Disparity | None
    normal: coarse.Normals | None


def main() -> None:
    """The command line."""
    told = _parser().parse_args()
    images = _images(told.images)
    files = [_coarse_files(image, told) for image in images]
    out = folder(told.out)
    refiner = load(told.weights, told.dtype, told.fidelity)
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
        "--grid", type=int, nargs=2, metavar=("ROWS", "COLS"), help="patches; else the weights' own"
    )
    add("--overlap", type=float, help="share of a patch its neighbour sees too")
    add("--fidelity", choices=sorted(FIDELITIES), help="as the paper has it (exact) or the "
        "released code (official); else what the weights were made for")  # fmt: skip
    add("--dtype", choices=["float32", "bfloat16"], help="of activations; else as trained")
    return parser


def _images(paths: list[Path]) -> list[Path]:
    """Pictures, with folders replaced by what they hold; names must differ, since outputs do."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in pictures.SUFFIXES)
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
    split, overlap = refiner.split(told.grid, told.overlap)
    view = refiner.way.view(image, split)
    count = grids.cover(*view.shape[:2], *split, overlap).count
    print(f"{path}: {image.shape[1]} x {image.shape[0]} pixels, {count} patches", flush=True)
    depth, normal = _coarse_maps(sources, view, files, told)
    progress = Progress(path.name, 1)

    def tell(done: int, steps: int) -> None:
        progress.count = steps
        progress.tell(done)

    try:
        result = refiner(image, depth, normal, grid=split, overlap=overlap, progress=tell)
    except UserError as error:  # the refiner knows maps, but not whose they are
        raise UserError(f"{path}: {error}") from error
    if not (np.isfinite(result.depth).all() and np.isfinite(result.normal).all()):
        raise UserError(f"{told.weights} gives NaN for {path}: the weights are damaged")
    write(result, refiner, out, path.stem)
    if told.save_coarse:
        write(Result(depth, normal, None, None), refiner, out, f"{path.stem}_coarse")
    print(
        f"{path}: refined in {duration(time.monotonic() - began)}, {out / path.stem}_*", flush=True
    )


def _coarse_maps(sources: Sources, view: np.ndarray, files, told) -> tuple[np.ndarray, np.ndarray]:
    """Coarse depth and normals of the picture that is worked on, as files or networks give them."""
    if files[0]:
        depth = pictures.load_map(files[0], "coarse depth")
    else:
        print("  coarse depth ...", flush=True)
        depth = sources.depth(view, told.depth_size)
    if files[1]:
        return depth, pictures.load_map(files[1], "coarse normal")
    print("  coarse normals ...", flush=True)
    return depth, sources.normal(view)


def write(result: Result, refiner: Refiner, out: Path, stem: str) -> None:
    """Saves maps and their pictures."""
    metric = refiner.config.prior.kind == "depth"
    shown = 1 / np.maximum(result.depth, 1e-3) if metric else result.depth
    pictures.write_map(out / f"{stem}_depth.npy", result.depth)
    pictures.write_map(out / f"{stem}_normal.npy", result.normal)
    pictures.write_image(out / f"{stem}_depth.png", pictures.colour_depth(shown))
    pictures.write_image(out / f"{stem}_normal.png", pictures.colour_normal(result.normal))


if __name__ == "__main__":
    sys.exit(exit_status(main))
