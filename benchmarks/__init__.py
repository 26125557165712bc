"""Measurements of speed, and the straightforward program they compare with."""
