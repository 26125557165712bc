"""equisep: measurement of the law of equi-separation. The public names serve your own networks, features and runs."""

import lazy_loader

__version__ = "0.1.0"

# The names of __init__.pyi, each loaded on first access: measuring needs only torch and NumPy, reading tables no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
