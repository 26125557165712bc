"""The configuration: its schema, its composition by Hydra, and the identity of runs and evaluations."""

import lazy_loader

# The names of __init__.pyi, each loaded on first access.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
