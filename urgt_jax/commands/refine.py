"""`urgt refine`: refines the depth and normals of images."""

import argparse
import time

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser, pixels
from urgt_jax.compile_cache import compile_timer
from urgt_jax.config import DTYPES
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.errors import require
from urgt_jax.files import make_folder
from urgt_jax.images.files import image_size, read_image, read_map
from urgt_jax.inference.image_files import (
    check_finite,
    coarse_strips,
    find_coarse_map,
    find_images,
    naming_image,
    save_maps,
)
from urgt_jax.inference.modes import MODES
from urgt_jax.inference.refiner import Image, Refiner, load
from urgt_jax.progress import Progress, format_duration

DEFAULT_WEIGHTS = "scenes-small"
LARGE = 2**24  # pixels of an image whose maps are looked at before it is decoded
EXAMPLES = """\
Coarse maps come from files, or from a network. By default, photo.jpg is refined with
photo_coarse_depth.npy and photo_coarse_normal.npy in the same folder.

For photo.jpg, the command writes photo_depth.npy (float32 [H, W]), photo_normal.npy (float32
[H, W, 3]; x right, y down, z forward), photo_depth.png and photo_normal.png.

examples:
  urgt refine photo.jpg
  urgt refine photos --weights urgt.safetensors --out refined --grid 4 4 --overlap 0.3
  urgt refine photo.jpg --depth-weights dav2.safetensors --normal-weights metric3d.safetensors
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    args = _parser().parse_args(arguments)
    compile_cache.start(args.cache)
    require(
        args.depth_size is None or args.depth_weights is not None,
        "--depth-size needs --depth-weights: it is the input size of that network",
    )
    images = find_images(args.images)
    for kind, path in (("depth", args.coarse_depth), ("normal", args.coarse_normal)):
        require(
            path is None or len(images) == 1,
            f"--coarse-{kind} is for one image: for more, put NAME_coarse_{kind}.npy next to each",
        )
    depth_files = [_coarse_file(image, "depth", args) for image in images]
    normal_files = [_coarse_file(image, "normal", args) for image in images]
    out = make_folder(args.out)
    if args.weights is None:
        args.weights = DEFAULT_WEIGHTS
        print(f"weights: {DEFAULT_WEIGHTS}, shipped with urgt_jax (pass others with --weights)")
    refiner = load(args.weights, args.dtype, args.fidelity, args.pool, args.resident)
    depth_network = None
    if args.depth_weights:
        depth_network = DepthNetwork(args.depth_weights, args.depth_size)
    normal_network = None
    if args.normal_weights:
        normal_network = NormalNetwork(args.normal_weights)
    for i, path in enumerate(images):
        depth_source = depth_files[i] or depth_network
        normal_source = normal_files[i] or normal_network
        with naming_image(path):
            _check_sizes(refiner, path, {"depth": depth_files[i], "normal": normal_files[i]})
        image = read_image(path)
        with naming_image(path):
            _refine_image(refiner, path, image, depth_source, normal_source, args, out)


def _check_sizes(refiner: Refiner, path: Path, files: dict[str, Path | None]) -> None:
    """Fails before a large image is decoded if its coarse maps have another size."""
    size = image_size(path)
    if size[0] * size[1] < LARGE or refiner.config.eval.fidelity == "official":
        return  # official mode takes maps of any size
    for kind, file in files.items():
        if file is not None:
            shape = read_map(file, f"coarse {kind}", mapped=True).shape
            require(
                shape[:2] == size,
                f"coarse {kind} has shape {shape}, but the image needs {size}. Resize the map to "
                "the size of its image",
            )


def _refine_image(
    refiner: Refiner,
    path: Path,
    image: Image,
    depth_source: Path | DepthNetwork,
    normal_source: Path | NormalNetwork,
    args: argparse.Namespace,
    out: Path,
) -> None:
    """Refine one image and report how it goes."""
    start = time.monotonic()
    compile_timer().take()
    height, width = image.shape[:2]
    grid = None if args.grid is None else tuple(args.grid)
    job = refiner.plan(image, grid, args.overlap)
    pool = refiner.config.eval.pool
    note = f", approximate: keys and values pooled over {pool} x {pool} tokens" if pool > 1 else ""
    patches = "1 patch" if job.patches == 1 else f"{job.patches} patches"
    print(f"{path}: {width} x {height} pixels, {patches}{note}", flush=True)

    if isinstance(depth_source, Path):
        depth = read_map(depth_source, "coarse depth", mapped=True)
    else:
        print("  predicting coarse depth ...", flush=True)
        depth = depth_source(job.image)
    if isinstance(normal_source, Path):
        normal = read_map(normal_source, "coarse normal", mapped=True)
    else:
        print("  predicting coarse normals ...", flush=True)
        normal = normal_source(job.image)

    metric = refiner.config.prior.kind == "depth"
    strips = refiner.run(job, depth, normal, Progress(path.name, 1).follow)
    save_maps(check_finite(strips, args.weights), job.size, job.size, out / path.stem, metric)
    if args.save_coarse:
        coarse = coarse_strips(depth, normal)
        prefix = out / f"{path.stem}_coarse"
        save_maps(coarse, depth.shape, normal.shape[:2], prefix, metric)
    taken = format_duration(time.monotonic() - start)
    compiled = compile_timer().take()
    if compiled:
        taken += f", {compiled}"
    print(f"{path}: refined in {taken}, {out / path.stem}_*", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt refine",
        usage="urgt refine IMAGE|DIR ... [--weights FILE] [--out DIR] [options]",
        description="Refine the coarse depth and normal maps of images, at the images' own size.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE|DIR", help="images, or folders of images"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weight file, or work directory of a run "
        f"(default: {DEFAULT_WEIGHTS}, shipped with urgt_jax)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("refined"),
        metavar="DIR",
        help="folder for the refined maps (default: refined)",
    )

    coarse = parser.add_argument_group("coarse maps")
    depth = coarse.add_mutually_exclusive_group()
    depth.add_argument(
        "--coarse-depth",
        type=Path,
        metavar="FILE",
        help="coarse depth map, .npy, float [H, W] (default: NAME_coarse_depth.npy)",
    )
    normal = coarse.add_mutually_exclusive_group()
    normal.add_argument(
        "--coarse-normal",
        type=Path,
        metavar="FILE",
        help="coarse normal map, .npy, float [H, W, 3] (default: NAME_coarse_normal.npy)",
    )
    depth.add_argument(
        "--depth-weights",
        type=Path,
        metavar="FILE",
        help="weights of Depth Anything V2, which predicts the coarse depth",
    )
    normal.add_argument(
        "--normal-weights",
        type=Path,
        metavar="FILE",
        help="weights of Metric3D v2, which predicts the coarse normals",
    )
    coarse.add_argument(
        "--depth-size",
        type=pixels,
        metavar="PIXELS",
        help="shorter side of the image that Depth Anything sees "
        "(default: as stored with its weights)",
    )
    coarse.add_argument(
        "--save-coarse",
        action="store_true",
        help="write the coarse maps too, as NAME_coarse_*",
    )

    patches = parser.add_argument_group("patches")
    patches.add_argument(
        "--grid",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLS"),
        help="rows and columns of patches; 0 0 fits them to the image size "
        "(default: as stored with the weights)",
    )
    patches.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="share of a patch that its neighbour covers too, 0 to 1 "
        "(default: as stored with the weights)",
    )
    patches.add_argument(
        "--fidelity",
        choices=sorted(MODES),
        help="the paper's method (exact) or the released code's (official) "
        "(default: as stored with the weights)",
    )
    patches.add_argument(
        "--pool",
        type=int,
        metavar="K",
        help="pool keys and values over K x K tokens in attention across patches, which is faster "
        "and approximate (default: as stored with the weights, usually 1: exact)",
    )

    device = parser.add_argument_group("device")
    device.add_argument(
        "--resident",
        type=int,
        metavar="PATCHES",
        help="number of patches kept on the device at once (default: as many as fit)",
    )
    device.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of activations (default: as stored with the weights)",
    )
    compile_cache.add_option(parser)
    return parser


def _coarse_file(image: Path, kind: str, args: argparse.Namespace) -> Path | None:
    """The file of an image's coarse map; None where a network predicts the map."""
    if getattr(args, f"{kind}_weights") is not None:
        return None
    path = getattr(args, f"coarse_{kind}")
    if path is None:
        return find_coarse_map(image, kind)
    require(path.is_file(), f"no coarse {kind} map at {path}")
    return path
