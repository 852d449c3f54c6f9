"""Checking: what is wrong with a data set, with counts and names."""
