"""Rendering: CAD models -> BOP data sets, by ray casting."""
