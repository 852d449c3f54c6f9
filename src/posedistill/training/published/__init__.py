"""The commands of published repositories, a module each: what they are given becomes a recipe, and is run."""
