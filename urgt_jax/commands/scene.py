"""`urgt scene`: writes an analytic scene."""

import argparse

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser, add_size
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.scenes import SPLITS
from urgt_jax.data.scenes.export import write_scene
from urgt_jax.errors import require
from urgt_jax.files import make_folder
from urgt_jax.images.files import SMALLEST


def main(arguments: list[str] | None = None) -> None:
    """The command line of `urgt scene`."""
    args = make_parser().parse_args(arguments)
    height, width = args.size
    require(args.seed >= 0, f"--seed {args.seed} is out of range: it must be at least 0")
    require(
        min(args.size) >= SMALLEST,
        f"--size {height} {width} is too small: the least is {SMALLEST} {SMALLEST}",
    )
    compile_cache.start(args.cache)
    prior = STRENGTHS[args.degrade]
    name = f"scene{args.seed}"
    out = make_folder(args.out)
    image = write_scene(out, name, args.seed, args.split, (height, width), prior)
    print(
        f"{image}: {height} x {width} pixels, with {name}_coarse_depth.npy, "
        f"{name}_coarse_normal.npy, {name}_true_depth.npy and {name}_true_normal.npy"
    )


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(
        prog="urgt scene",
        description="Renders an analytic scene and writes its image, its true depth and normals, "
        "and coarse maps to refine.",
        epilog="example: urgt scene --seed 3 --size 1080 1920 --out images",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("scenes"),
        metavar="DIR",
        help="folder for the files (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="number of the scene (default: %(default)s)"
    )
    add_size(parser, "the image")
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="test",
        help="set of scenes to draw from; `other` has shapes that training never sees "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--degrade",
        choices=STRENGTHS,
        default="middle",
        help="strength of the coarse maps' errors: those of a good network (weak), of an older one "
        "(middle), or of a phone's depth sensor (strong) (default: %(default)s)",
    )
    compile_cache.add_option(parser)
    return parser
