"""Joint training without the alignment term, the squared distance of unit normals.

    urgt train ablations/no_alignment --workdir runs/no_alignment

The paper publishes no result for it. Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"loss.alignment": 0.0}
rows = (TableRow("Loss terms", "without the distance of unit normals", {}, order=2),)
config = with_changes(load_config(BASE), changes)
