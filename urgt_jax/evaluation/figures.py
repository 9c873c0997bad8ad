"""Figures as SVG."""

import io
from typing import TYPE_CHECKING

from urgt_jax.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg_bytes(figure: "Figure") -> bytes:
    """A figure as an SVG file: the same bytes for the same figure."""
    matplotlib = import_extra("matplotlib", "eval")
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "urgt", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return file.getvalue()
