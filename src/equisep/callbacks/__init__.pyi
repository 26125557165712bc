from .loop import SeparationCallback as SeparationCallback
