"""Training, measuring and mirroring runs: in this process, in worker processes, on SLURM."""

import lazy_loader

# The names of __init__.pyi, each loaded on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
