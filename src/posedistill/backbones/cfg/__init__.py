"""Darknet's .cfg and .weights: read, built as networks, written and converted."""
