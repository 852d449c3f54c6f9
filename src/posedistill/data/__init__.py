"""Data: readers, rendering from CAD, crops and augmentation."""
