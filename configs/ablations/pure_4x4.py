"""GridMix with whole images only: blocks of 4 x 4 patches.

    urgt train ablations/pure_4x4 --workdir runs/pure_4x4

Expected (the paper's result): AbsRel 0.0321, against 0.0295 of the mix (separate_depth). Not yet
run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("depth",), "data.mix": (0.0, 0.0, 0.0, 1.0)}
rows = (
    TableRow("GridMix", "pure 4x4", {"abs_rel": 0.0321, "ce": 0.0635}, order=2),
    TableRow("Positions", "global RoPE", {"abs_rel": 0.0321, "ce": 0.0635}, order=0),
)
config = with_changes(load_config(BASE), changes)
