"""Scores a trained refiner: python eval.py --workdir runs/tiny [--eval.images 8 ...]"""

import sys

from urgt_jax.commands.eval import main
from urgt_jax.errors import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main))
