"""posedistill: large 6-DoF pose estimators made small enough for the device that needs them."""

import os

# Read when an OpenMP library loads, so it is set before torch can be imported. Threads that spin at every barrier take
# the cores of whatever else runs, and of each other: of two trainings side by side each kept 4 to 27 % of its speed.
# They sleep, but after some microseconds: falling asleep at once cost the smallest networks a quarter on idle cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ["OMP_WAIT_POLICY"].upper() == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"
