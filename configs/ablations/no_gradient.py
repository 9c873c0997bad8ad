"""Without gradient matching, in joint training.

The paper has no figures for it. Not yet run at full size.

urgt train configs/ablations/no_gradient.py --workdir runs/no_gradient
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"loss.gradient": 0.0}
rows = (TableRow("Loss terms", "without gradient matching", {}, order=1),)
config = with_changes(load_config(BASE), changes)
