"""Positions that begin anew in every patch.

Not yet run at full size; the paper's figures stand in `rows`.

urgt train configs/ablations/local_rope.py --workdir runs/local_rope
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("depth",), "data.mix": (0.0, 0.0, 0.0, 1.0), "model.rope": "local"}
rows = (TableRow("Positions", "local RoPE", {"abs_rel": 0.0343, "ce": 0.283}, order=1),)
config = with_changes(load_config(BASE), changes)
