"""Evaluation of exported files on data of one's own, by the task of the model."""
