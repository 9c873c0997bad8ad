"""`urgt train`: trains a refiner, or resumes its training."""

import argparse
from functools import partial

from etils.epath import Path

from urgt_jax import compile_cache, distributed
from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config import Config
from urgt_jax.config_files import load_config
from urgt_jax.training import determinism
from urgt_jax.training.loop import train
from urgt_jax.training.orbax_errors import hide_secondary_errors

USAGE = "urgt train CONFIG --workdir DIR [options] [--FIELD VALUE ...]"

DESCRIPTION = """
Train the refiner that CONFIG describes, on all devices of this machine or of several machines.
Run the same command again to resume: the result is bit-identical to an uninterrupted run (on GPUs
only with --train.deterministic; on another mesh, equal up to rounding). SIGTERM, SIGHUP, SIGUSR1,
SIGUSR2 and Ctrl-C save a checkpoint and exit with status 0.

The work directory contains
  config.json           the configuration
  metrics.jsonl         one line of metrics every train.log_every steps
  checkpoints/          the two newest checkpoints
  goodput.json          where the time went, over all starts of the run
  compiled/             compiled programs, so that a resumed run starts at once
  weights.safetensors   the trained weights, for urgt eval and urgt refine
"""

EPILOG = """
examples:
  urgt train tiny --workdir runs/tiny
  urgt train tiny --workdir runs/short --optim.steps 100 --train.log_every 10
  urgt train configs/u4k.py --workdir runs/u4k --data.path DATA --model.remat blocks

On a TPU pod slice or under SLURM, run the same command with --distributed on every host.
Every field of the configuration is an option. The defaults shown below are those of CONFIG.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args, fields = _parser().parse_known_args(arguments)
    compile_cache.start(args.cache, args.workdir)
    config = override(load_config(args.config), fields)
    if config.train.deterministic:
        determinism.request()
    distributed.connect(args)
    hide_secondary_errors()
    return distributed.run(partial(_train, config, args.workdir))


def _parser() -> argparse.ArgumentParser:
    parser = FieldsParser(
        prog="urgt train",
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="name of a configuration, such as tiny, or a Python file that defines `config`",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the run, which all processes must see; may be gs://BUCKET/FOLDER",
    )
    compile_cache.add_option(parser, "DIR/compiled of the work directory")
    distributed.add_options(parser)
    return parser


def _train(config: Config, workdir: Path) -> None:
    train(config, workdir, report=distributed.print_line)
