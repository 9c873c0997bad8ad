"""URGT separate, depth: a network that predicts depth only, trained with the paper's GridMix.

    urgt train ablations/separate_depth --workdir runs/separate_depth

Expected (the paper's result): AbsRel 0.0295. Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {"model.outputs": ("depth",)}
rows = (
    TableRow(
        "Depth on UnrealStereo4K",
        "URGT separate",
        {"abs_rel": 0.0295, "delta1": 0.982, "rmse": 1.38, "ce": 0.0418},
        order=6,
    ),
    TableRow("Loss terms", "depth alone (separate)", {}, order=3),
    TableRow("GridMix", "mixed (.1, .2, .3, .4)", {"abs_rel": 0.0295, "ce": 0.0418}, order=0),
)
config = with_changes(load_config(BASE), changes)
