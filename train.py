"""Trains a refiner: python train.py configs/tiny.py --workdir runs/tiny [--model.depth 12 ...]"""

from urgt_jax import processes
from urgt_jax.training import main

if __name__ == "__main__":
    processes.run(main)
