"""Rows of the paper's tables for methods that are not implemented here."""

from urgt_jax.evaluation.paper_tables import TableRow

rows = (
    TableRow(
        "Depth on UnrealStereo4K",
        "PRO",
        {"abs_rel": 0.0771, "delta1": 0.927, "rmse": 2.73, "ce": 0.0549},
        order=5,
    ),
)
