"""`urgt app`: a page in the browser that refines images."""

import argparse

from etils.epath import Path

from urgt_jax import compile_cache
from urgt_jax.commands.parser import Parser
from urgt_jax.config import DTYPES
from urgt_jax.data.priors.networks import DepthNetwork, NormalNetwork
from urgt_jax.inference.app_page import import_gradio, serve
from urgt_jax.inference.refine_file import Models
from urgt_jax.inference.refiner import load
from urgt_jax.weights import hub
from urgt_jax.weights.weight_file import DEFAULT_WEIGHTS

NETWORKS = {"weights": "refiner", "depth_weights": "depth_anything", "normal_weights": "metric3d"}
EPILOG = """\
Drop an image and its coarse maps into the page, move the slider between before and after, and
download the files that `urgt refine` writes. Without networks for coarse maps, every image needs a
coarse depth map. Ctrl-C ends the server.

examples:
  urgt app --weights scenes
  urgt app --accept-licences --port 8000
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command until Ctrl-C."""
    args = _parser().parse_args(arguments)
    import_gradio()
    compile_cache.start(args.cache)
    _find_weights(args)
    models = Models(
        load(args.weights, args.dtype),
        args.weights,
        DepthNetwork(args.depth_weights) if args.depth_weights else None,
        NormalNetwork(args.normal_weights) if args.normal_weights else None,
    )
    if models.depth is None:
        print("no network for coarse depth: every image needs a coarse depth map")
    serve(models, args.host, args.port, args.share, _print_address)


def _find_weights(args: argparse.Namespace) -> None:
    """Fill in the weights that no option names: cached ones, or all if downloads are accepted."""
    names = {}
    for option, kind in NETWORKS.items():
        name = hub.best_name(kind)
        if getattr(args, option) is None and (args.accept_licences or hub.is_available(name)):
            names[option] = name
    paths = hub.obtain(list(names.values()), _print_licences)
    for option, name in names.items():
        setattr(args, option, paths[name])
        print(f"{option.replace('_', ' ')}: {name} ({paths[name]})")
    if args.weights is None:
        args.weights = DEFAULT_WEIGHTS
        print(f"weights: {DEFAULT_WEIGHTS}, shipped with urgt_jax (pass others with --weights)")


def _print_licences(licences: list[str]) -> None:
    print("to be downloaded:")
    for licence in licences:
        print(f"  {licence}")


def _print_address(address: str) -> None:
    print(f"open {address} in a browser; Ctrl-C ends the server", flush=True)


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt app",
        usage="urgt app [--weights FILE] [--port N] [options]",
        description="Refine images on a page in the browser.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="weight file, work directory of a run, shipped name, or hf://ORG/REPOSITORY (default: "
        f"the published weights if they are in the cache, otherwise {DEFAULT_WEIGHTS})",
    )
    parser.add_argument(
        "--depth-weights",
        type=Path,
        metavar="FILE",
        help="weights of Depth Anything V2 for images without a coarse depth map (default: the "
        "best in the cache)",
    )
    parser.add_argument(
        "--normal-weights",
        type=Path,
        metavar="FILE",
        help="weights of Metric3D v2 for images without coarse normals (default: the best in the "
        "cache)",
    )
    parser.add_argument(
        "--accept-licences",
        action="store_true",
        help="download missing weights without asking; their licences are printed",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets everybody in the network use the page (default: "
        "127.0.0.1, this machine alone)",
    )
    parser.add_argument(
        "--port", type=_port, default=7860, metavar="N", help="port of the page (default: 7860)"
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="also make a public address through gradio's servers, for a week (default: off)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of activations (default: as stored with the weights)",
    )
    compile_cache.add_option(parser)
    return parser
