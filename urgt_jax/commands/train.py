"""`urgt train`: trains a refiner."""

import argparse
from functools import partial
from pathlib import Path

from urgt_jax import distributed
from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config_files import load_config
from urgt_jax.training.loop import train

ABOUT = """
Trains the refiner that CONFIG describes, on all devices of this machine or of many.

The work directory holds config.json, metrics.jsonl (one line per train.log-every steps),
checkpoints and, at the end, weights.safetensors, which eval.py and urgt refine take. A second
call with the same work directory goes on from the newest checkpoint that can be read, with the
same bits as if nothing had happened; on another mesh, with the same results up to rounding.
SIGTERM and Ctrl-C save and end with status 0; wrong input ends with one line and status 2.

With many processes (a pod slice, SLURM), start the same command on every host with --distributed.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line of `urgt train`."""
    parser = FieldsParser(
        prog="urgt train",
        description=ABOUT,
        epilog="Any field of the configuration can be set: --model.depth 12. Below are all;\n"
        "the default shown is the field's own, which the file may have set otherwise.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a file like configs/tiny.py")
    parser.add_argument("--workdir", type=Path, required=True, help="where the run is kept")
    distributed.add_options(parser)
    args, fields = parser.parse_known_args(arguments)
    distributed.connect(args)
    return distributed.run(partial(_train, args, fields))


def _train(args: argparse.Namespace, fields: list[str]) -> None:
    train(override(load_config(args.config), fields), args.workdir)
