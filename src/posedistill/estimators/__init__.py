"""Pose families: one file each."""
