"""`urgt plan`: compiles a training step for TPUs that you do not have."""

import argparse
import shlex

from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config_files import load_config
from urgt_jax.errors import require
from urgt_jax.scaling import tpu_plan
from urgt_jax.training import sharding

ABOUT = """
Compiles the training step of CONFIG for a TPU slice, on any machine, and reports memory, FLOPs and
communication per device and an upper bound on MFU. It ends with status 1, and says how much memory
is missing, if the step does not fit. Needs `pip install "urgt-jax[tpu]"`.
"""
EXAMPLES = """
any field of the configuration can be set, such as --data.batch 64

examples:
  urgt plan v5e:4x8 u4k --model.dtype bfloat16 --model.remat blocks --data.batch 64
  urgt plan v5p:4x4x4 u4k --model.dtype bfloat16 --largest
  urgt plan v5e:4x8 u4k --slices 2 --model.dtype bfloat16 --model.remat blocks --data.batch 128
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line of `urgt plan`."""
    parser = FieldsParser(
        prog="urgt plan",
        usage="urgt plan TOPOLOGY CONFIG [options] [fields]",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("topology", metavar="TOPOLOGY", help="TPU slice, such as v5e:16x16 or v5p:4x4x4")
    add("config", metavar="CONFIG", help="name (u4k) or file of a configuration")
    add(
        "--side",
        type=int,
        choices=[1, 2, 3, 4],
        help="M of the GridMix block (default: the largest of the configuration's mix)",
    )
    add(
        "--slices",
        type=int,
        default=1,
        metavar="N",
        help="number of such slices, which a slower network connects (default: 1)",
    )
    add("--largest", action="store_true", help="find the largest data.batch that fits")
    args, fields = parser.parse_known_args(arguments)
    require(args.slices >= 1, f"--slices {args.slices} is out of range: it must be at least 1")
    config = override(load_config(args.config), fields)
    side = args.side or max(sharding.block_sides(config))
    make_plan = tpu_plan.largest if args.largest else tpu_plan.plan
    try:
        plan = make_plan(args.topology, config, side, args.slices)
    except tpu_plan.DoesNotFit as error:
        print(error)
        return 1
    print(tpu_plan.section(plan, f"urgt plan {shlex.join(arguments)}"))
    return 0
