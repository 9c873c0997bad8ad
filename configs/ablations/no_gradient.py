"""Joint training without the gradient matching term.

    urgt train ablations/no_gradient --workdir runs/no_gradient

The paper publishes no result for it. Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"loss.gradient": 0.0}
rows = (TableRow("Loss terms", "without gradient matching", {}, order=1),)
config = with_changes(load_config(BASE), changes)
