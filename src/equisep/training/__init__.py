"""How networks are trained: engines compute a step, a population goes through a schedule."""

import lazy_loader

# The names of __init__.pyi, each loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
