"""URGT separate, normals: a network that predicts normals only.

    urgt train ablations/separate_normal --workdir runs/separate_normal

The paper publishes no result for it. Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("normal",)}
rows = (
    TableRow("Normals on UnrealStereo4K", "URGT separate (no figures in the paper)", {}, order=2),
    TableRow("Loss terms", "normals alone (separate)", {}, order=4),
)
config = with_changes(load_config(BASE), changes)
