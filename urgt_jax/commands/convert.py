"""`urgt convert`: official weights into a weight file, and back."""

import argparse
import json
from pathlib import Path

from urgt_jax.errors import Parser, UserError, require
from urgt_jax.weights import download
from urgt_jax.weights.convert import convert
from urgt_jax.weights.weight_file import (
    locate_weights,
)


def _given(path: Path | None) -> dict:
    """What --config tells beyond the tensors' shapes."""
    if path is None:
        return {}
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} cannot be read as JSON: {error}") from error
    require(isinstance(told, dict), f"--config {path} must hold one JSON object")
    return told


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="urgt convert",
        description="Official weights of DINOv2, VGGT-1B, URGT, Depth Anything V2 and Metric3D v2 "
        "into one .safetensors file of ours, told apart by their names; or ours back into official "
        "names (DST .safetensors, or .pth for torch.load).",
    )
    add = parser.add_argument
    add("source", type=Path, nargs="?", metavar="SRC", help=".pth, .pt or .safetensors")
    add("target", type=Path, nargs="?", metavar="DST", help="the file to write")
    add("--config", type=Path, metavar="F.json", help="what shapes cannot tell: num_heads, "
        "intermediate_layer_idx, patch_process_shape, ...; else as published")  # fmt: skip
    add("--download", choices=sorted(download.FILES), metavar="NAME",
        help=f"fetch published weights as SRC: {', '.join(sorted(download.FILES))}")  # fmt: skip
    add("--half", action="store_true", help="a file of ours, or a run, in float16: half the size")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    told = _parser().parse_args(arguments)
    source, target = told.source, told.target
    if told.download:
        require(target is None, "with --download give one file: --download NAME DST.safetensors")
        target = source or Path(f"{told.download}.safetensors")
        source = download.fetch(told.download, target)
    require(source is not None and target is not None, "give SRC and DST (see --help)")
    source = locate_weights(source) if told.half else source
    require(source.resolve() != target.resolve(), f"{target} is the source itself")
    convert(source, target, _given(told.config), told.half)
