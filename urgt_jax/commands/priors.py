"""`urgt priors`: coarse maps for a whole data set."""

import argparse
from importlib import metadata
from pathlib import Path

import jax

from urgt_jax.config import TOKEN_SIZE
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.priors.precompute import _report, precompute
from urgt_jax.data.priors.providers import (
    Degraded,
    DepthProvider,
    NormalProvider,
    Provider,
    StoredFolder,
)
from urgt_jax.data.priors.stored import claim_folder
from urgt_jax.data.sources import default_split, open_source, priors_folder
from urgt_jax.errors import Parser, require
from urgt_jax.files import make_folder


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    told = _parser().parse_args(arguments)
    require(told.depth_size is None or told.depth_weights, "--depth-size is for --depth-weights")
    require(told.maps_kind is None or told.depth_maps, "--maps-kind is for --depth-maps")
    depth, normal = told.depth_weights or told.depth_maps, told.normal_weights or told.normal_maps
    require(
        not (depth or normal) if told.degrade else depth and normal,
        "give --degrade alone, or --depth-weights or --depth-maps, and --normal-weights or "
        "--normal-maps",
    )
    host, hosts = told.host or (jax.process_index(), jax.process_count())
    require(0 <= host < hosts, f"--host {host} {hosts}: hosts are numbered from 0 to N - 1")
    name, path = told.data
    splits = [default_split(name, split) for split in told.split or [""]]
    sources = [open_source(name, path, split) for split in splits]
    makers = _makers(told)
    reports = []
    for source, split in zip(sources, splits, strict=True):
        stored = claim_folder(
            make_folder(priors_folder(path, split, told.out)), _origin(makers, told)
        )
        skipped = precompute(source, makers, stored, host, hosts)
        reports += _report(stored, skipped, len(range(host, len(source), hosts)), host, hosts)
    require(not reports, "; ".join(reports))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt priors",
        description="Makes the coarse depth and normals of a whole data set; what is there already "
        "is kept, so that the same call goes on after a stop.",
    )
    add = parser.add_argument
    add("--data", nargs=2, required=True, metavar=("NAME", "PATH"), help="the set and its folder")
    add("--split", nargs="+", help="parts of the data set; else its usual one")
    add("--out", default="", metavar="DIR", help="where each split's maps get a folder; else "
        "PATH/priors")  # fmt: skip
    add("--degrade", choices=STRENGTHS, help="make both from the truth, that much worse: to score "
        "a refiner where no coarse network is at hand")  # fmt: skip
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--depth-weights", type=Path, metavar="FILE", help="Depth Anything V2")
    depth.add_argument("--depth-maps", type=Path, metavar="DIR", help="NAME.npy or NAME_depth.npy")
    normal = parser.add_mutually_exclusive_group()
    normal.add_argument("--normal-weights", type=Path, metavar="FILE", help="Metric3D v2")
    normal.add_argument("--normal-maps", type=Path, metavar="DIR", help="NAME.npy or "
        "NAME_normal.npy")  # fmt: skip
    add("--depth-size", type=_pixels, metavar="PIXELS", help="shorter side Depth Anything sees")
    add("--maps-kind", choices=["disparity", "depth"], help="what --depth-maps hold: relative "
        "disparity (the default) or metres")  # fmt: skip
    add("--max-depth", type=_metres, default=80.0, metavar="METRES", help="truth is valid below it")
    add("--host", type=int, nargs=2, metavar=("I", "N"), help="do every N-th picture from the I-th")
    return parser


def _pixels(text: str) -> int:
    number = int(text)
    if number < TOKEN_SIZE:
        raise argparse.ArgumentTypeError(f"at least {TOKEN_SIZE} pixels are needed")
    return number


def _metres(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("a distance above 0 is needed")
    return number


def _makers(told: argparse.Namespace) -> list[Provider]:
    """What the options ask for, for depth and for normals."""
    if told.degrade:
        return [Degraded(what, told.degrade, told.max_depth) for what in ("depth", "normal")]
    # Folders first, since reading weights takes long.
    depth = StoredFolder(told.depth_maps, "depth") if told.depth_maps else None
    normal = StoredFolder(told.normal_maps, "normal") if told.normal_maps else None
    depth = depth or DepthProvider(told.depth_weights, told.depth_size)
    return [depth, normal or NormalProvider(told.normal_weights)]


def _origin(makers: list[Provider], told: argparse.Namespace) -> dict:
    """What makes the maps, for priors.json."""
    try:
        version = metadata.version("urgt-jax")
    except metadata.PackageNotFoundError:
        version = "of a checkout"
    return {
        "program": f"urgt-jax {version}",
        "data": told.data[0],
        "kind": told.maps_kind or "disparity",
        "max_depth": told.max_depth,
        "depth": makers[0].origin,
        "normal": makers[1].origin,
    }
