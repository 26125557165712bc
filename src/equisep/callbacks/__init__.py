"""D of every layer during training: in a plain loop, in Lightning and in transformers' Trainer.

Lightning and transformers are extras; their callbacks are imported from equisep.callbacks.lightning and
equisep.callbacks.transformers.
"""

import lazy_loader

# The names of __init__.pyi, each loaded on first access.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
