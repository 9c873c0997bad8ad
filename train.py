"""Trains a refiner: `python train.py tiny --workdir runs/tiny` is the same as `urgt train ...`."""

import sys

from urgt_jax.commands.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
