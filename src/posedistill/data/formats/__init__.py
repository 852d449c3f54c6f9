"""Formats: files on disk -> frames, one format a file."""
