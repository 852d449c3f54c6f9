"""The pure functions behind the losses."""
