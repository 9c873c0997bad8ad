"""Without attention across patches: each of the 16 patches of an image is refined on its own.

    urgt train ablations/no_cross --workdir runs/no_cross

Expected (the paper's result): AbsRel 0.0678, against 0.05 with attention across patches
(pure_1x1). Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
changes = {
    "model.outputs": ("depth",),
    "data.mix": (1.0, 0.0, 0.0, 0.0),
    "model.cross_patch": False,
}
rows = (
    TableRow("Cross-patch attention", "without", {"abs_rel": 0.0678, "rmse": 2.51}, order=1),
    TableRow(
        "Depth on UnrealStereo4K",
        "isolated patches, p = 16 (the paper's: PatchRefiner)",
        {"abs_rel": 0.0633, "delta1": 0.95, "rmse": 2.28, "ce": 0.0753},
        order=3,
    ),
)
config = with_changes(load_config(BASE), changes)
