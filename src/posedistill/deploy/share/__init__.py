"""Passing models on: cards, and the hub."""
