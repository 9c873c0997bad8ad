"""Scores a refiner: `python eval.py --workdir runs/tiny` is the same as `urgt eval ...`."""

import sys

from urgt_jax.commands.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "eval")
    sys.exit(main())
