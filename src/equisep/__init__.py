"""equisep: the law of equi-separation, measured. For networks and features of your own, these four."""

from equisep.law import Law, fit_law
from equisep.measure import measure_separation
from equisep.separation import Separation, separation_fuzziness

__all__ = ["Law", "Separation", "fit_law", "measure_separation", "separation_fuzziness"]
