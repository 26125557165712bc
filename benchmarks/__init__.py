"""Measurements of speed, and the plain implementation with which they are compared."""
