"""What a finished network is calibrated by: how its outputs are decoded, distances, and scores as probabilities."""
