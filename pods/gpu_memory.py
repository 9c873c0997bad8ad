"""Prints the memory that a training step needs on one GPU, from compiling it.

    python pods/gpu_memory.py u4k --data.batch 1 --model.dtype bfloat16-all --model.remat blocks

No GPU is needed with JAX_PLATFORMS=cpu and --target FILE, a description of one, such as
h100_sxm.txtpb of XLA's sources (xla/backends/gpu/target_config/specs), if jax[cuda13] is installed.
"""

import argparse
import types

import jax
from jax.experimental import topologies

from urgt_jax.commands.fields import FieldsParser, override
from urgt_jax.config_files import load_config
from urgt_jax.hardware import GIB
from urgt_jax.models import attention
from urgt_jax.scaling.batch_shapes import abstract_batch
from urgt_jax.training import sharding
from urgt_jax.training.step import abstract_state, train_step


def devices_of(target: str) -> list:
    """One GPU that need not be here, from the description of it."""
    from jax._src.cudnn import fused_attention_stablehlo

    # Without a GPU, cuDNN cannot be asked for its version. JAX has no public way around this.
    fused_attention_stablehlo.cuda_versions = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    attention._has_cudnn_attention = lambda: True
    description = open(target).read()
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=description, topology="1x1x1"
    )
    return topology.devices


def main() -> None:
    """Compile the step and print a table."""
    parser = FieldsParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", help="name (u4k) or file of a configuration")
    parser.add_argument("--target", metavar="FILE", help="description of a GPU that is not here")
    args, fields = parser.parse_known_args()
    config = override(load_config(args.config), fields)
    devices = devices_of(args.target) if args.target else jax.devices()[:1]
    mesh = sharding.make_mesh(config, devices)
    side = max(sharding.block_sides(config))
    lowered = train_step(config, mesh).lower(abstract_state(config), abstract_batch(config, side))
    memory = lowered.compile().memory_analysis()
    state = memory.argument_size_in_bytes / GIB
    work = memory.temp_size_in_bytes / GIB
    print(f"state and batch {state:.2f} GiB, work {work:.2f} GiB, together {state + work:.2f} GiB")


if __name__ == "__main__":
    main()
