"""Trains a refiner: python train.py configs/tiny.py --workdir runs/tiny [--model.depth 12 ...]"""

import sys

from urgt_jax.errors import exit_status
from urgt_jax.training import main

if __name__ == "__main__":
    sys.exit(exit_status(main))
