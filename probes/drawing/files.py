"""What all pictures share: the colours and the font of a figure, and a figure as the bytes of a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
UPPER, LOWER, SHARE, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"  # Okabe and Ito's, as in the report
STYLE = {"font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}


def file_bytes(figure: Figure, kind: str) -> bytes:
    """Return the figure as svg, pdf or png, the same bytes each time."""
    import matplotlib

    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    held = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "costate"}):
        figure.savefig(held, format=kind, dpi=150, metadata=dates[kind])
    return held.getvalue()
