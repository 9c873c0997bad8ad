"""`python -m urgt_jax` is the same as the console command `urgt`."""

import sys

from urgt_jax.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
