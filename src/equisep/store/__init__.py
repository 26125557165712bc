"""The store of runs: its files on disk, and their readers."""

import lazy_loader

# The names of __init__.pyi, each loaded on first use.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
