"""Trains a refiner: python train.py configs/tiny.py --workdir runs/tiny [--model.depth 12 ...]"""

from urgt_jax import distributed
from urgt_jax.commands.train import main

if __name__ == "__main__":
    distributed.run(main)
