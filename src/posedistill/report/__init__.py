"""What a run shows its user: result tables, plots, overlays, and the one page that holds them all.

``results`` reads a run folder, ``tables`` and ``plots`` turn it into tables and SVG, ``cases`` draws overlays while
a run is evaluated, and ``page`` writes ``report.html`` from the templates.
"""
