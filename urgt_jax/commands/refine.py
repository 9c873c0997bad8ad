"""`urgt refine`: refines the depth and normals of images."""

import argparse
import sys
import time
from typing import NamedTuple

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser, pixels
from urgt_jax.compile_cache import compile_timer
from urgt_jax.config import DTYPES
from urgt_jax.data.priors.given import SEVERAL, DepthUnit, axis_signs, parse_depth_unit
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.errors import UserError, printable, require
from urgt_jax.evaluation.verdict import Maps, verdict
from urgt_jax.files import make_folder
from urgt_jax.images.files import ImageHeader, read_map
from urgt_jax.images.map_files import NAMES
from urgt_jax.inference.coarse_maps import Statement
from urgt_jax.inference.image_files import Failures, ImageFile, find_coarse_map, find_images
from urgt_jax.inference.modes import MODES
from urgt_jax.inference.outputs import DEFAULT_FORMATS, FORMATS, Target
from urgt_jax.inference.refine_file import (
    MapPaths,
    Models,
    Options,
    check_out,
    check_sources,
    refine_file,
)
from urgt_jax.inference.refiner import load
from urgt_jax.progress import Progress, format_duration
from urgt_jax.remote import absolute, staged
from urgt_jax.weights import hub
from urgt_jax.weights.weight_file import DEFAULT_WEIGHTS

KINDS = ("depth", "normal", "mask", "sky")  # as the fields of MapPaths
FILE_NAMES = {**NAMES, "sky": "mask of the sky"}
DETECT = "detect"  # instead of the file of a mask
EXAMPLES = """\
Coarse maps come from files, or from a network. By default, photo.jpg is refined with
photo_coarse_depth.* and photo_coarse_normal.* in the same folder. Normals are made from depth if
there are none and the field of view is known.

For photo.jpg, the command writes photo_depth.npy (float32 [H, W]), photo_normal.npy (float32
[H, W, 3]; x right, y down, z forward), photo_depth.png and photo_normal.png.

examples:
  urgt refine photo.jpg
  urgt refine photos --weights urgt.safetensors --out refined --grid 4 4 --overlap 0.3
  urgt refine photo.jpg --depth-weights dav2.safetensors --normal-weights metric3d.safetensors
  urgt refine photo.jpg --coarse-depth lidar.png --depth-unit millimetres --fov 69
"""


class Sources(NamedTuple):
    """What is known about an image before work starts."""

    header: ImageHeader
    maps: MapPaths


def main(arguments: list[str] | None = None) -> None:
    """Run the command. One image that cannot be refined does not stop the others."""
    args = _parser().parse_args(arguments)
    compile_cache.start(args.cache)
    require(
        args.depth_size is None or args.depth_weights is not None,
        "--depth-size needs --depth-weights: it is the input size of that network",
    )
    statement = Statement(args.depth_unit, args.normal_axes, args.fov)
    axis_signs(args.axes)
    options = Options(
        statement,
        formats=tuple(args.save),
        axes=args.axes,
        grid=None if args.grid is None else tuple(args.grid),
        overlap=args.overlap,
        bits=args.bits,
        detect_sky=args.sky == DETECT,
        save_coarse=args.save_coarse,
    )
    images = find_images(args.images, args.recursive, skip=args.out)
    for kind in KINDS:
        option = f"--{kind}" if kind in ("mask", "sky") else f"--coarse-{kind}"
        require(
            _stated_file(kind, args) is None or len(images) == 1,
            f"{option} is for one image: for more, put NAME_coarse_{kind}.npy next to each",
        )
    failures = Failures(args.out, len(images))
    sources = {}
    for image in images:
        with failures.collecting(image.path):
            sources[image] = _find_sources(image, options, args)
    if sources:
        _find_weights(sources, args)
        make_folder(args.out)
        refiner = load(args.weights, args.dtype, args.fidelity, args.pool, args.resident)
        models = Models(
            refiner,
            args.weights,
            DepthNetwork(args.depth_weights, args.depth_size) if args.depth_weights else None,
            NormalNetwork(args.normal_weights) if args.normal_weights else None,
        )
        for image, files in sources.items():
            with failures.collecting(image.path):
                out = make_folder(args.out / image.folder)
                _refine_image(models, image.path, files, options, out)
    failures.report()


def _find_sources(image: ImageFile, options: Options, args: argparse.Namespace) -> Sources:
    """The files of an image's coarse maps, and checks that only need the header of the image.

    Headers are read first, so that an image that lacks something is named before work starts.
    """
    maps = MapPaths(*[_coarse_file(image.path, kind, args) for kind in KINDS])
    check_out(image.path, maps, options, args.out / image.folder)
    makes_depth = args.depth_weights is not None
    makes_normal = args.normal_weights is not None
    return Sources(check_sources(image.path, maps, options, makes_depth, makes_normal), maps)


def _find_weights(sources: dict[ImageFile, Sources], args: argparse.Namespace) -> None:
    """Fill in the weights that no option names: the best in the cache, or downloaded ones.

    Without coarse depth, both coarse maps come from networks, and the refiner is the published one.
    """
    names = {}
    without_depth = [image for image, files in sources.items() if files.maps.depth is None]
    if without_depth and args.depth_weights is None:
        names["depth_weights"] = hub.best_name("depth_anything")
        without_normal = [image for image in without_depth if sources[image].maps.normal is None]
        if without_normal and args.normal_weights is None:
            names["normal_weights"] = hub.best_name("metric3d")
    published = hub.best_name("refiner")
    if args.weights is None and (names or hub.is_available(published)):
        names["weights"] = published

    def accept(licences: list[str]) -> None:
        _ask_for_licences(licences, without_depth, args.accept_licences)

    paths = hub.obtain(list(names.values()), accept)
    for option, name in names.items():
        setattr(args, option, paths[name])
        print(f"{option.replace('_', ' ')}: {name} ({paths[name]})")
    if args.weights is None:
        args.weights = DEFAULT_WEIGHTS
        print(f"weights: {DEFAULT_WEIGHTS}, shipped with urgt_jax (pass others with --weights)")


def _ask_for_licences(licences: list[str], images: list[ImageFile], accepted: bool) -> None:
    """Print what is to be downloaded, and fail unless the user agrees."""
    print("to be downloaded:")
    for licence in licences:
        print(f"  {licence}")
    if accepted:
        return
    looked = ""
    if images:
        path = images[0].path
        looked = f"{path}: no coarse depth map found (looked for {path.stem}_coarse_depth.npy, "
        looked += ".png, ...). Pass --coarse-depth FILE, or "
    if not sys.stdin.isatty():
        raise UserError(
            f"{looked or 'Pass '}--accept-licences to download the networks listed above"
        )
    try:
        answer = input("Download them under these licences? [y/N] ")
    except EOFError:  # Ctrl-D
        answer = ""
    require(answer.strip().lower() in ("y", "yes"), "nothing was downloaded")


def _refine_image(
    models: Models, path: Path, sources: Sources, options: Options, out: Path
) -> None:
    """Refine one image and report how it goes."""
    start = time.monotonic()
    compile_timer().take()
    progress = Progress(path.name, 1).follow
    with staged(out) as folder:
        target = refine_file(models, path, *sources, options, folder, _print_line, progress)
        words = _verdict(path, target)
    taken = format_duration(time.monotonic() - start)
    compiled = compile_timer().take()
    if compiled:
        taken += f", {compiled}"
    _print_line(f"{path}: refined in {taken}, {out / path.stem}_*")
    if words:
        _print_line(f"  compared with the true maps next to it: {words}")
    if "compare" in options.formats:
        page = absolute(out / f"{path.stem}_compare.html")
        _print_line(f"  before and after: {page.as_uri()}")


def _print_line(line: str) -> None:
    """Print a line at once, also into a file."""
    print(printable(line), flush=True)


def _verdict(path: Path, target: Target) -> str:
    """How close to the truth the saved maps are; empty if no truth is next to the image."""
    if "npy" not in target.formats or target.axes != "opencv":
        return ""
    coarse = Maps(target.coarse.depth, target.coarse.normal, target.weights_unit == "depth")
    refined = Maps(
        # Mapped, because they are not needed where no truth lies beside the image.
        read_map(target.named("depth.npy"), "refined depth", mapped=True),
        read_map(target.named("normal.npy"), "refined normal", mapped=True),
        target.is_metric,
    )
    return verdict(path, coarse, refined)


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
        help="weight file, work directory of a run, shipped name, or hf://ORG/REPOSITORY (default: "
        f"the published weights if they are in the cache or networks make the coarse maps, "
        f"otherwise {DEFAULT_WEIGHTS})",
    )
    parser.add_argument("--recursive", action="store_true", help="search subfolders too")
    parser.add_argument(
        "--bits",
        type=int,
        choices=range(8, 17),
        metavar="N",
        help="bits in use of 16-bit grey images, 8 to 16 (default: 16)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("refined"),
        metavar="DIR",
        help="folder for the refined maps (default: refined)",
    )
    parser.add_argument(
        "--save",
        nargs="+",
        choices=FORMATS,
        default=DEFAULT_FORMATS,
        metavar="FORMAT",
        help=f"what to write: {', '.join(FORMATS)} (default: {' '.join(DEFAULT_FORMATS)})",
    )
    parser.add_argument(
        "--axes",
        default="opencv",
        help="axes of saved normals and points: opencv (x right, y down, z forward), opengl, or "
        "three letters (default: opencv; glb is always y up)",
    )

    coarse = parser.add_argument_group("coarse maps")
    depth = coarse.add_mutually_exclusive_group()
    depth.add_argument(
        "--coarse-depth",
        type=Path,
        metavar="FILE",
        help="coarse depth map: npy, npz, exr, pfm, png or tif of any size "
        "(default: NAME_coarse_depth.npy, .png, ...)",
    )
    normal = coarse.add_mutually_exclusive_group()
    normal.add_argument(
        "--coarse-normal",
        type=Path,
        metavar="FILE",
        help="coarse normal map, in the same formats (default: NAME_coarse_normal.npy, .png, ...)",
    )
    depth.add_argument(
        "--depth-weights",
        type=Path,
        metavar="FILE",
        help="weights of Depth Anything V2, which predicts the coarse depth (default, if there is "
        "no coarse map: the best in the cache; without any, the small one is downloaded)",
    )
    normal.add_argument(
        "--normal-weights",
        type=Path,
        metavar="FILE",
        help="weights of Metric3D v2, which predicts the coarse normals (default: as above)",
    )
    coarse.add_argument(
        "--accept-licences",
        action="store_true",
        help="download missing networks without asking; their licences are printed",
    )
    coarse.add_argument(
        "--depth-unit",
        type=_depth_unit,
        metavar="UNIT",
        help=f"unit of the coarse depth: {SEVERAL} (default: as the file says, otherwise as "
        "the weights expect)",
    )
    coarse.add_argument(
        "--normal-axes",
        default="",
        metavar="AXES",
        help="directions of x, y and z of the coarse normals: opencv (RDF: right, down, forward), "
        "opengl (RUB), or three such letters (default: opencv)",
    )
    coarse.add_argument(
        "--mask",
        dest="coarse_mask",
        type=Path,
        metavar="FILE",
        help="image that is 0 where the coarse depth is unknown (default: NAME_coarse_mask.png)",
    )
    coarse.add_argument(
        "--sky",
        metavar="FILE|detect",
        help="image that is not 0 in the sky, or detect to look for it (default: "
        "NAME_coarse_sky.png, and where the coarse depth is infinite)",
    )
    coarse.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="horizontal field of view, for normals from depth where there are no coarse normals "
        "(default: from the focal length in the image's EXIF data)",
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


def _depth_unit(text: str) -> DepthUnit:
    try:
        return parse_depth_unit(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _coarse_file(image: Path, kind: str, args: argparse.Namespace) -> Path | None:
    """The file of an image's coarse map or mask; None where there is none."""
    if getattr(args, f"{kind}_weights", None) is not None:
        return None
    path = _stated_file(kind, args)
    if path is None:
        return find_coarse_map(image, kind)
    require(path.is_file(), f"no {FILE_NAMES[kind]} at {path}")
    return path


def _stated_file(kind: str, args: argparse.Namespace) -> Path | None:
    """The file that the command line names for a coarse map or mask."""
    if kind == "sky" and args.sky == DETECT:
        return None
    path = args.sky if kind == "sky" else getattr(args, f"coarse_{kind}")
    return None if path is None else Path(path)
