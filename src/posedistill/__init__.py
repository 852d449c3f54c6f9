"""posedistill: large 6-DoF pose estimators made small enough for the device that needs them."""

import os

# Read when an OpenMP library loads, so it is set before torch can be imported. Threads that spin at every barrier take
# the cores of whatever else runs, and of each other: beside two busy processes a training fell to a ninth of its speed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
