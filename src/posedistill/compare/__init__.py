"""Comparisons: many trials of one recipe, their costs, and the page that shows them."""
