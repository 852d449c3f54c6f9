"""Recipes: the typed, validated configuration of an experiment."""
