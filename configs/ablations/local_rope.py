"""Local RoPE: positions start from 0 in every patch, instead of covering the whole image.

    urgt train ablations/local_rope --workdir runs/local_rope

Expected (the paper's result): AbsRel 0.0343, against 0.0321 of global RoPE (pure_4x4). Not yet run
at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("depth",), "data.mix": (0.0, 0.0, 0.0, 1.0), "model.rope": "local"}
rows = (TableRow("Positions", "local RoPE", {"abs_rel": 0.0343, "ce": 0.283}, order=1),)
config = with_changes(load_config(BASE), changes)
