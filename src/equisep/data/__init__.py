"""Data sets as tensors in memory, and where they come from."""
