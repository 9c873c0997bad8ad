"""URGT joint: one network predicts depth and normals.

    urgt train ablations/joint --workdir runs/joint

Expected (the paper's result): AbsRel 0.0291, mean normal error 18.51 degrees. Not yet run at full
size.
"""

from pathlib import Path

from urgt_jax.config_files import load_config
from urgt_jax.evaluation.paper_tables import TableRow

BASE = Path(__file__).parents[1] / "u4k.py"
rows = (
    TableRow(
        "Depth on UnrealStereo4K",
        "URGT joint",
        {"abs_rel": 0.0291, "delta1": 0.983, "rmse": 1.31, "ce": 0.0415},
        order=7,
    ),
    TableRow(
        "Normals on UnrealStereo4K",
        "URGT joint",
        {
            "mean": 18.51,
            "median": 9.6,
            "normal_rmse": 28.83,
            "below_5": 29.37,
            "below_11.25": 59.43,
            "below_30": 85.06,
        },
        order=3,
    ),
    TableRow(
        "Depth on UnrealStereo4K",
        "coarse prior alone (Depth Anything V2)",
        {"abs_rel": 0.0812, "delta1": 0.924, "rmse": 2.86},
        candidate="coarse",
        order=0,
    ),
    TableRow(
        "Normals on UnrealStereo4K",
        "coarse prior alone (Metric3D v2)",
        {
            "mean": 23.36,
            "median": 13.9,
            "normal_rmse": 33.15,
            "below_5": 11.74,
            "below_11.25": 44.96,
            "below_30": 79.77,
        },
        candidate="coarse",
        order=0,
    ),
    TableRow("Loss terms", "all (joint)", {}, order=0),
)
config = load_config(BASE)
