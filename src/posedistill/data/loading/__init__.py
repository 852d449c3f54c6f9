"""Loading: frames -> packs -> batches."""
