"""Refines pictures: python -m urgt_jax.predict photo.jpg --weights runs/tiny --out refined ..."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from urgt_jax import grid as grids
from urgt_jax import pictures
from urgt_jax.errors import Parser, UserError, exit_status
from urgt_jax.files import folder
from urgt_jax.inference import Refiner, Result, load
from urgt_jax.log import Progress, duration


def main() -> None:
    """The command line."""
    told = _parser().parse_args()
    images = _images(told.images)
    coarse = [_coarse(image, told) for image in images]
    out = folder(told.out)
    refiner = load(told.weights, told.dtype)
    for image, maps in zip(images, coarse, strict=True):
        _refine(refiner, image, maps, told, out)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m urgt_jax.predict",
        description="Refines coarse depth and normals of pictures, at their own size.",
        epilog="Coarse maps not given by option are looked for beside the picture: "
        "photo_coarse_depth.npy and photo_coarse_normal.npy for photo.jpg.",
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE|DIR", help="pictures or folders of them")
    add("--weights", type=Path, required=True, help="a weight file, or a run's work directory")
    add("--out", type=Path, required=True, help="folder for what is made")
    add("--coarse-depth", type=Path, metavar="F.npy", help="float [H, W], the prior's unit")
    add("--coarse-normal", type=Path, metavar="F.npy", help="float [H, W, 3]")
    add("--grid", type=int, nargs=2, metavar=("ROWS", "COLS"), help="patches; else as evaluated")
    add("--overlap", type=float, default=0.0, help="share of a patch its neighbour sees too")
    add("--fidelity", choices=["exact"], default="exact", help="what to compute exactly like")
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


def _coarse(image: Path, told: argparse.Namespace) -> tuple[Path, Path]:
    """The files with the coarse maps of a picture."""
    found = []
    for kind in ("depth", "normal"):
        given = getattr(told, f"coarse_{kind}")
        if given and len(told.images) + told.images[0].is_dir() > 1:
            raise UserError(f"--coarse-{kind} is for one picture; for more, put NAME_coarse_{kind}"
                            ".npy beside each picture")  # fmt: skip
        path = given or image.with_name(f"{image.stem}_coarse_{kind}.npy")
        if not path.is_file():
            hint = "" if given else f": give --coarse-{kind} or put it there"
            raise UserError(f"no coarse {kind} at {path}{hint}")
        found.append(path)
    return found[0], found[1]


def _refine(refiner: Refiner, path: Path, coarse: tuple[Path, Path], told, out: Path) -> None:
    """One picture from files to files."""
    began = time.monotonic()
    image = pictures.read_image(path)
    size = image.shape[:2]
    depth = pictures.read_map(coarse[0], size, "coarse depth")
    normal = pictures.read_map(coarse[1], (*size, 3), "coarse normal")
    sides = tuple(told.grid or refiner.config.eval.grid)
    count = grids.cover(*size, *sides, told.overlap).count
    print(f"{path}: {size[1]} x {size[0]} pixels, {count} patches", flush=True)
    progress = Progress(path.name, 1)

    def tell(done: int, steps: int) -> None:
        progress.count = steps
        progress.tell(done)

    result = refiner(image, depth, normal, grid=sides, overlap=told.overlap, progress=tell)
    if not (np.isfinite(result.depth).all() and np.isfinite(result.normal).all()):
        raise UserError(f"{told.weights} gives NaN for {path}: the weights are damaged")
    write(result, refiner, out, path.stem)
    print(
        f"{path}: refined in {duration(time.monotonic() - began)}, {out / path.stem}_*", flush=True
    )


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
