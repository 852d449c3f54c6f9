"""Pure geometry on numpy arrays: cameras, rotations, symmetries, meshes, PnP. Imports no torch."""
