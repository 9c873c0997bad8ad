"""Without the squared distance of unit normals, in joint training.

The paper has no figures for it. Not yet run at full size.

python train.py configs/ablations/no_alignment.py --workdir runs/no_alignment
"""

from pathlib import Path

from urgt_jax.config_files import changed, load
from urgt_jax.evaluation.paper_tables import Row

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"loss.alignment": 0.0}
rows = (Row("Loss terms", "without the distance of unit normals", {}, order=2),)
config = changed(load(BASE), changes)
