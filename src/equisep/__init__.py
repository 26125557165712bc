"""equisep: the law of equi-separation, measured. Public: separation_fuzziness, measure, fit_law."""

from equisep.law import Law, fit_law
from equisep.separation import Separation, separation, separation_fuzziness

__all__ = ["Law", "Separation", "fit_law", "separation", "separation_fuzziness"]
