"""What a run shows its user: result tables, plots, overlays, and the one page that holds them all.

``results`` reads a run folder, ``tables`` and ``plots`` turn it into tables and SVG, ``gallery`` draws overlays while
a run is evaluated, and ``page`` writes ``report.html``.
"""

from posedistill.report.page import build_report
from posedistill.report.tables import result_markdown, result_table

__all__ = ["build_report", "result_markdown", "result_table"]
