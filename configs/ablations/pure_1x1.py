"""GridMix with single patches only.

    urgt train ablations/pure_1x1 --workdir runs/pure_1x1

Expected (the paper's result): AbsRel 0.05, against 0.0295 of the mix (separate_depth). Not yet run
at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("depth",), "data.mix": (1.0, 0.0, 0.0, 0.0)}
rows = (
    TableRow("GridMix", "pure 1x1", {"abs_rel": 0.05, "ce": 0.0648}, order=1),
    TableRow("Cross-patch attention", "with", {"abs_rel": 0.05, "rmse": 2.01}, order=0),
)
config = with_changes(load_config(BASE), changes)
