"""`urgt refine`: refines the depth and normals of images."""

import argparse
from pathlib import Path

from urgt_jax.data.priors import networks
from urgt_jax.errors import Parser, UserError, require
from urgt_jax.files import make_folder
from urgt_jax.images.files import SUFFIXES
from urgt_jax.inference.image_files import PriorNetworks, _refine
from urgt_jax.inference.modes import MODES
from urgt_jax.inference.refiner import Refiner, load


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    told = _parser().parse_args(arguments)
    require(told.depth_size is None or told.depth_weights, "--depth-size is for --depth-weights")
    images = _images(told.images)
    files = [_coarse_files(image, told) for image in images]
    out = make_folder(told.out)
    refiner = load(told.weights, told.dtype, told.fidelity, told.pool, told.resident)
    require(isinstance(refiner, Refiner), f"{told.weights} holds no refiner: it makes coarse maps")
    sources = PriorNetworks(
        networks.DepthNetwork(told.depth_weights, told.depth_size) if told.depth_weights else None,
        networks.NormalNetwork(told.normal_weights) if told.normal_weights else None,
    )
    for image, paths in zip(images, files, strict=True):
        _refine(refiner, sources, image, paths, told, out)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt refine",
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
    add("--fidelity", choices=sorted(MODES), help="as the paper has it (exact) or the "
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
        shown = (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        inside = sorted(p for p in shown if not _made(p))
        if not inside:
            raise UserError(f"the folder {path} holds no picture ({', '.join(SUFFIXES)})")
        found += inside
    for path in found:
        if not path.is_file():
            raise UserError(f"no image at {path}")
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
