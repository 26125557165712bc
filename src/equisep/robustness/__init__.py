"""Robustness of trained networks: separation and accuracy under perturbation."""

import lazy_loader

# The names of __init__.pyi, each loaded on first access.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
