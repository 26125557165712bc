"""equisep: the law of equi-separation, measured. For networks, features and runs of your own, these names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equisep.measures import Law, Separation, fit_law, measure_separation, separation_fuzziness
    from equisep.store import load_runs

__all__ = ["Law", "Separation", "fit_law", "load_runs", "measure_separation", "separation_fuzziness"]

# Loaded when they are first asked for: measuring needs torch and NumPy alone, reading a table no torch.
_MODULES = {
    "Law": "equisep.measures.law",
    "Separation": "equisep.measures.separation",
    "fit_law": "equisep.measures.law",
    "load_runs": "equisep.store.table",
    "measure_separation": "equisep.measures.layers",
    "separation_fuzziness": "equisep.measures.separation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'equisep' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
