"""URGT separate: a network of its own for normals.

Not yet run at full size; the paper's figures stand in `rows`.

urgt train configs/ablations/separate_normal.py --workdir runs/separate_normal
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
