"""Without gradient matching, in joint training.

The paper has no figures for it. Not yet run at full size.

python train.py configs/ablations/no_gradient.py --workdir runs/no_gradient
"""

from pathlib import Path

from urgt_jax.config_files import changed, load
from urgt_jax.evaluation.paper_tables import Row

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"loss.gradient": 0.0}
rows = (Row("Loss terms", "without gradient matching", {}, order=1),)
config = changed(load(BASE), changes)
