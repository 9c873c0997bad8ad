"""Isolated patches: 49 patches that overlap by half and are averaged, as in PatchRefiner.

It scores the weights of no_cross: train that first.

    urgt eval --workdir runs/no_cross --out runs/isolated_p49 --eval.overlap 0.5

Expected (the paper's PatchRefiner, p = 49): AbsRel 0.0582. Not yet run at full size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config, with_changes
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
trained = "no_cross"
evaluation = {"eval.overlap": 0.5}
rows = (
    TableRow(
        "Depth on UnrealStereo4K",
        "isolated patches, p = 49 (the paper's: PatchRefiner)",
        {"abs_rel": 0.0582, "delta1": 0.956, "rmse": 2.17, "ce": 0.0715},
        order=4,
    ),
)
config = with_changes(load_config(Path(__file__).with_name("no_cross.py")), evaluation)
