"""Tasks: what is learned and how it is scored."""
