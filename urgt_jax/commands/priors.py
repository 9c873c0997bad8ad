"""`urgt priors`: coarse maps for a whole data set."""

import argparse
from importlib import metadata
from typing import Any

import jax
from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser, add_max_skipped, pixels
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.data.priors.precompute import precompute
from urgt_jax.data.priors.providers import Degraded, NetworkProvider, Provider, StoredFolder
from urgt_jax.data.priors.stored import claim_folder
from urgt_jax.data.sources import default_split, open_source, priors_folder
from urgt_jax.errors import NegativeResult, require
from urgt_jax.files import is_same, make_folder

EXAMPLES = """examples:
  urgt priors --data unreal4k u4k --split train val \\
      --depth-weights dav2.safetensors --normal-weights metric3d.safetensors
  urgt priors --data folder photos --depth-maps my_depth --normal-maps my_normals
  urgt priors --data folder photos --degrade middle --out photos/middle
"""


def main(arguments: list[str] | None = None) -> None:
    """Makes the coarse maps of a data set's splits; ends with an error if images were skipped."""
    args = _parser().parse_args(arguments)
    compile_cache.start(args.cache)
    _check(args)
    host, hosts = args.host or (jax.process_index(), jax.process_count())
    require(0 <= host < hosts, f"--host {host} {hosts}: I must be from 0 to N - 1")
    name, path = args.data
    splits = [default_split(name, split) for split in args.split]
    sources = [open_source(name, path, split) for split in splits]
    depth_provider, normal_provider = _providers(args)
    origin = _origin(args, depth_provider, normal_provider)
    folders = [priors_folder(path, split, args.out) for split in splits]
    for maps in (args.depth_maps, args.normal_maps):
        for folder in folders:
            require(
                maps is None or not is_same(maps, folder),
                f"{maps} is the folder of the results, which would replace it. Pass another --out",
            )
    problems = []
    for source, folder in zip(sources, folders, strict=True):
        make_folder(folder)
        stored = claim_folder(folder, origin)
        summary = precompute(
            source, depth_provider, normal_provider, stored, host, hosts, args.max_skipped
        )
        if summary.skipped:
            problems.append(
                f"{len(summary.skipped)} of {summary.count} images were skipped "
                f"(list: {summary.list_path}), first: {summary.skipped[0]}"
            )
    if problems:
        raise NegativeResult("; ".join(problems))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt priors",
        description="Make the coarse depth and normal maps of a whole data set.\n"
        "If the command is interrupted, run it again: it makes only the maps that are missing.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs=2, required=True, metavar=("NAME", "PATH"), help="data set and its folder")
    add("--split", nargs="+", default=[""], help="splits (default: the data set's usual one)")
    add(
        "--out",
        default="",
        metavar="DIR",
        help="output folder, with a subfolder for each split (default: PATH/priors)",
    )
    add(
        "--degrade",
        choices=STRENGTHS,
        help="degrade the ground truth instead of using other maps, to score a refiner without "
        "a network: with the errors of a good network (weak), of an older one (middle), or of a "
        "phone's depth sensor (strong)",
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--depth-weights", type=Path, metavar="FILE", help="weights of Depth Anything V2"
    )
    depth.add_argument(
        "--depth-maps",
        type=Path,
        metavar="DIR",
        help="folder of depth maps, NAME_depth.npy or NAME.npy",
    )
    normal = parser.add_mutually_exclusive_group()
    normal.add_argument(
        "--normal-weights", type=Path, metavar="FILE", help="weights of Metric3D v2"
    )
    normal.add_argument(
        "--normal-maps",
        type=Path,
        metavar="DIR",
        help="folder of normal maps, NAME_normal.npy or NAME.npy",
    )
    add(
        "--depth-size",
        type=pixels,
        metavar="PIXELS",
        help="shorter side of Depth Anything's input (default: as stored with the weights)",
    )
    add(
        "--maps-kind",
        choices=["disparity", "depth"],
        help="unit of --depth-maps: relative disparity or metres (default: disparity)",
    )
    add(
        "--max-depth",
        type=_metres,
        default=80.0,
        metavar="METRES",
        help="ground truth beyond this depth is invalid (default: 80)",
    )
    add(
        "--host",
        type=int,
        nargs=2,
        metavar=("I", "N"),
        help="process every N-th image, starting at image I (default: the JAX process's share)",
    )
    add_max_skipped(parser, "images")
    compile_cache.add_option(parser)
    return parser


def _check(args: argparse.Namespace) -> None:
    """Fails unless the options ask for exactly one source of depth and one of normals."""
    require(args.depth_size is None or args.depth_weights, "--depth-size needs --depth-weights")
    require(args.maps_kind is None or args.depth_maps, "--maps-kind needs --depth-maps")
    depth = args.depth_weights or args.depth_maps
    normal = args.normal_weights or args.normal_maps
    if args.degrade:
        complete = not depth and not normal
    else:
        complete = depth and normal
    require(
        complete,
        "pass --degrade alone, or one of --depth-weights and --depth-maps together with one of "
        "--normal-weights and --normal-maps",
    )


def _metres(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a distance above 0")
    return number


def _providers(args: argparse.Namespace) -> tuple[Provider, Provider]:
    """The providers of depth and of normals that the options ask for."""
    if args.degrade:
        depth_provider = Degraded("depth", args.degrade, args.max_depth)
        normal_provider = Degraded("normal", args.degrade, args.max_depth)
        return depth_provider, normal_provider
    # Folders are checked first: reading weights takes long.
    if args.depth_maps:
        depth_provider = StoredFolder(args.depth_maps, "depth")
    if args.normal_maps:
        normal_provider = StoredFolder(args.normal_maps, "normal")
    devices = jax.local_devices()
    if args.depth_weights:
        network = DepthNetwork(args.depth_weights, args.depth_size, devices)
        depth_provider = NetworkProvider(network)
    if args.normal_weights:
        normal_provider = NetworkProvider(NormalNetwork(args.normal_weights, devices))
    return depth_provider, normal_provider


def _origin(
    args: argparse.Namespace, depth_provider: Provider, normal_provider: Provider
) -> dict[str, Any]:
    """The contents of priors.json."""
    try:
        version = metadata.version("urgt-jax")
    except metadata.PackageNotFoundError:
        version = "of a checkout"
    return {
        "program": f"urgt-jax {version}",
        "data": args.data[0],
        "kind": args.maps_kind or "disparity",
        "max_depth": args.max_depth,
        "depth": depth_provider.origin,
        "normal": normal_provider.origin,
    }
