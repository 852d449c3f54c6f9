"""posedistill: large 6-DoF pose estimators made small enough for the device that needs them."""

__version__ = "0.1.0"
