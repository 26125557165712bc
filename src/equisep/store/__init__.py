"""The store of runs: what stands on disk, and what reads it."""
