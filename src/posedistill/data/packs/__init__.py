"""Packs: frames decoded once into a memory-mapped array, with typed columns for the instances in them."""
