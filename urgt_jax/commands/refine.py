"""`urgt refine`: refines the depth and normals of images."""

import argparse
import sys
import time
from dataclasses import replace
from typing import NamedTuple

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser, pixels
from urgt_jax.compile_cache import compile_timer
from urgt_jax.config import DTYPES
from urgt_jax.data.priors.given import SEVERAL, DepthUnit, axis_signs, parse_depth_unit
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork, PriorNetwork
from urgt_jax.errors import UserError, require
from urgt_jax.evaluation.verdict import Maps, verdict
from urgt_jax.files import make_folder
from urgt_jax.images.files import ImageHeader, load_image, read_header, read_map
from urgt_jax.images.map_files import MapFile, read_map_file, read_mask
from urgt_jax.inference.coarse_maps import (
    NO_NORMALS,
    Statement,
    check_map_sizes,
    prepare_coarse_maps,
)
from urgt_jax.inference.image_files import (
    Failures,
    ImageFile,
    check_finite,
    find_coarse_map,
    find_images,
    naming_image,
)
from urgt_jax.inference.modes import MODES
from urgt_jax.inference.outputs import (
    DEFAULT_FORMATS,
    FORMATS,
    SPATIAL,
    Target,
    save_coarse,
    save_result,
)
from urgt_jax.inference.refiner import Image, Refiner, load
from urgt_jax.progress import Progress, format_duration
from urgt_jax.weights import hub
from urgt_jax.weights.weight_file import DEFAULT_WEIGHTS

KINDS = ("depth", "normal", "mask")
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
    """Where the coarse maps of one image come from: files, or networks where there is none."""

    header: ImageHeader  # of the image
    depth: Path | None
    normal: Path | None
    mask: Path | None


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
    images = find_images(args.images, args.recursive, skip=args.out)
    for kind in KINDS:
        option = "--mask" if kind == "mask" else f"--coarse-{kind}"
        require(
            getattr(args, f"coarse_{kind}") is None or len(images) == 1,
            f"{option} is for one image: for more, put NAME_coarse_{kind}.npy next to each",
        )
    failures = Failures(args.out, len(images))
    sources = {}
    for image in images:
        with failures.collecting(image.path):
            sources[image] = _find_sources(image.path, statement, args)
    if sources:
        _find_weights(sources, args)
        make_folder(args.out)
        refiner = load(args.weights, args.dtype, args.fidelity, args.pool, args.resident)
        networks = {}
        if args.depth_weights:
            networks["depth"] = DepthNetwork(args.depth_weights, args.depth_size)
        if args.normal_weights:
            networks["normal"] = NormalNetwork(args.normal_weights)
        for image, files in sources.items():
            with failures.collecting(image.path):
                out = make_folder(args.out / image.folder)
                _refine_image(refiner, image.path, files, networks, statement, args, out)
    failures.report()


def _find_sources(image: Path, statement: Statement, args: argparse.Namespace) -> Sources:
    """The files of an image's coarse maps, and checks that only need the header of the image.

    Headers are read first, so that an image that lacks something is named before work starts.
    """
    files = [_coarse_file(image, kind, args) for kind in KINDS]
    sources = Sources(read_header(image), *files)
    focal = statement.focal_length(sources.header)
    has_depth = sources.depth is not None or args.depth_weights is not None
    if has_depth and sources.normal is None and args.normal_weights is None:
        require(focal is not None, f"{image}: {NO_NORMALS}")
    spatial = [name for name in args.save if name in SPATIAL]
    require(
        focal is not None or not spatial,
        f"{image}: --save {' '.join(spatial)} needs the camera, and the image has no focal length. "
        "Pass --fov DEGREES",
    )
    return sources


def _find_weights(sources: dict[ImageFile, Sources], args: argparse.Namespace) -> None:
    """Fill in weights that nobody named: the best in the cache, or downloaded ones.

    Without coarse depth, both coarse maps come from networks, and the refiner is the published one.
    """
    names = {}
    without_depth = [image for image, files in sources.items() if files.depth is None]
    if without_depth and args.depth_weights is None:
        names["depth_weights"] = hub.best_name("depth_anything")
        without_normal = [image for image in without_depth if sources[image].normal is None]
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
    answer = input("Download them under these licences? [y/N] ")
    require(answer.strip().lower() in ("y", "yes"), "nothing was downloaded")


def _refine_image(
    refiner: Refiner,
    path: Path,
    sources: Sources,
    networks: dict[str, PriorNetwork],
    statement: Statement,
    args: argparse.Namespace,
    out: Path,
) -> None:
    """Refine one image and report how it goes."""
    start = time.monotonic()
    compile_timer().take()
    header = sources.header
    wanted = refiner.config.prior.kind
    depth = None if sources.depth is None else read_map_file(sources.depth, "depth")
    normal = None if sources.normal is None else read_map_file(sources.normal, "normal")
    mask = None if sources.mask is None else read_mask(sources.mask)
    with naming_image(path):
        # A large image takes long to decode, so its maps are checked before.
        check_map_sizes(depth, normal, header)
        image, notes = load_image(path, args.bits)
        grid = None if args.grid is None else tuple(args.grid)
        job = refiner.plan(image, grid, args.overlap)
        _print_plan(path, image, job.patches, refiner.config.eval.pool)
        if depth is None:
            print("  predicting coarse depth ...", flush=True)
            depth = MapFile(networks["depth"](job.image), unit="disparity")
            statement = replace(statement, depth_unit=None)  # it is about files
        if normal is None and "normal" in networks:
            print("  predicting coarse normals ...", flush=True)
            normal = MapFile(networks["normal"](job.image), axes="opencv")
            statement = replace(statement, normal_axes="")
        coarse = prepare_coarse_maps(depth, normal, mask, header, statement, refiner.config)
        for note in [*notes, *coarse.notes]:
            print(f"  {note}", flush=True)
        strips = refiner.run(job, coarse.depth, coarse.normal, Progress(path.name, 1).follow)
        strips = coarse.restore(check_finite(strips, args.weights), wanted)
        focal = statement.focal_length(header)
        prefix = out / path.stem
        target = Target(prefix, tuple(args.save), image, coarse, wanted, focal, args.axes)
        save_result(strips, target)
        if args.save_coarse:
            save_coarse(coarse.depth, coarse.normal, out / f"{path.stem}_coarse", wanted == "depth")
    taken = format_duration(time.monotonic() - start)
    compiled = compile_timer().take()
    if compiled:
        taken += f", {compiled}"
    print(f"{path}: refined in {taken}, {prefix}_*", flush=True)
    if "npy" in args.save and args.axes == "opencv":
        _print_verdict(path, target)
    if "compare" in args.save:
        print(f"  before and after: {target.named('compare.html').absolute().as_uri()}", flush=True)


def _print_verdict(path: Path, target: Target) -> None:
    """Print how close to the truth the maps are, if it lies beside the image."""
    coarse = Maps(target.coarse.depth, target.coarse.normal, target.weights_unit == "depth")
    refined = Maps(
        # Mapped, because they are not needed where no truth lies beside the image.
        read_map(target.named("depth.npy"), "refined depth", mapped=True),
        read_map(target.named("normal.npy"), "refined normal", mapped=True),
        target.is_metric,
    )
    words = verdict(path, coarse, refined)
    if words:
        print(f"  compared with the true maps next to it: {words}", flush=True)


def _print_plan(path: Path, image: Image, count: int, pool: int) -> None:
    height, width = image.shape[:2]
    note = f", approximate: keys and values pooled over {pool} x {pool} tokens" if pool > 1 else ""
    patches = "1 patch" if count == 1 else f"{count} patches"
    print(f"{path}: {width} x {height} pixels, {patches}{note}", flush=True)


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
        f"the published weights if they are in the cache or coarse maps are missing, "
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
    path = getattr(args, f"coarse_{kind}")
    if path is None:
        return find_coarse_map(image, kind)
    require(path.is_file(), f"no coarse {kind} map at {path}")
    return path
