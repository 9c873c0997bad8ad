"""python -m urgt_jax.scaling"""

import sys

from urgt_jax.errors import exit_status
from urgt_jax.scaling.command import main

if __name__ == "__main__":
    sys.exit(exit_status(main))
