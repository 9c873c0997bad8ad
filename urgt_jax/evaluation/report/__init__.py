"""The scores of an evaluation: a table for a terminal, and HTML pages to look at the maps."""

from urgt_jax.evaluation.report.columns import COLUMNS, table
from urgt_jax.evaluation.report.layers import (
    Layers,
    clear,
    is_written,
    remove_layers,
    sheet,
    write_layers,
    write_thumbnail,
)
from urgt_jax.evaluation.report.pages import typical_image, write_pages
from urgt_jax.evaluation.report.zooms import reduced, zooms

__all__ = [
    "COLUMNS",
    "Layers",
    "clear",
    "is_written",
    "reduced",
    "remove_layers",
    "sheet",
    "table",
    "typical_image",
    "write_layers",
    "write_pages",
    "write_thumbnail",
    "zooms",
]
