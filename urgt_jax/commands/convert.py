"""`urgt convert`: converts official weights into a weight file, and back."""

import argparse
from typing import Any

from etils.epath import Path

from urgt_jax.commands.parser import Parser
from urgt_jax.errors import require
from urgt_jax.files import read_json_object
from urgt_jax.remote import absolute
from urgt_jax.weights import download
from urgt_jax.weights.convert import check_target, convert
from urgt_jax.weights.weight_file import locate_weights

EPILOG = """\
examples:
  urgt convert ckpt_best.pth urgt.safetensors                 official URGT weights to ours
  urgt convert --download depth_anything_l dav2.safetensors   the same after a download
  urgt convert runs/tiny official.safetensors                 a trained model to official names
  urgt convert runs/tiny small.safetensors --half             a trained model in float16
"""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    args = _parser().parse_args(arguments)
    source = args.source
    target = args.target
    if args.download:
        require(target is None, "--download takes one file: --download NAME DST.safetensors")
        target = source or Path(f"{args.download}.safetensors")
        check_target(target)
        source = download.fetch(args.download, target)
    require(source is not None and target is not None, "SRC and DST are needed (see --help)")
    source = locate_weights(source)
    require(absolute(source) != absolute(target), f"{target} is SRC itself: name another DST")
    fields = {} if args.config is None else _read_fields(args.config)
    convert(source, target, fields, args.half, args.take)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt convert",
        usage="urgt convert SRC DST.safetensors [options]",
        description="Converts official weights of DINOv2, VGGT-1B, URGT, Depth Anything V2 and "
        "Metric3D v2 into\na weight file, or a weight file back to official names. Recognises the "
        "model from its tensors,\nunder the names of its authors, of transformers or of timm.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        nargs="?",
        metavar="SRC",
        help="official weights (.pth, .pt or .safetensors), a weight file, or a work directory",
    )
    add(
        "target",
        type=Path,
        nargs="?",
        metavar="DST",
        help="file to write (default with --download: NAME.safetensors)",
    )
    add(
        "--config",
        type=Path,
        metavar="F.json",
        help="values that shapes do not determine: num_heads, intermediate_layer_idx, "
        "patch_process_shape, ... (default: those of the published model)",
    )
    add(
        "--download",
        choices=sorted(download.PUBLISHED),
        metavar="NAME",
        help=f"published weights to download as SRC: {', '.join(sorted(download.PUBLISHED))}",
    )
    add(
        "--take",
        default="",
        metavar="NAME",
        help="model to convert, if the checkpoint has several, such as student, teacher or ema",
    )
    add(
        "--half",
        action="store_true",
        help="copy of a weight file in float16, half the size (default: official names)",
    )
    return parser


def _read_fields(path: Path) -> dict[str, Any]:
    """The values of --config."""
    return read_json_object(path)
