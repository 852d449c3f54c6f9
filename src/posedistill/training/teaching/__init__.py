"""Teachers, what a student learns from them, and the store of their outputs."""
