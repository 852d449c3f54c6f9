"""Supervised losses, a file a family."""
