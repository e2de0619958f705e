"""Measured comparisons, one command each; both sides of each in the same run. `make bench` runs them all."""
