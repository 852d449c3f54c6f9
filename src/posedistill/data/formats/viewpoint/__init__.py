"""Viewpoints of categories, and their shapes."""
