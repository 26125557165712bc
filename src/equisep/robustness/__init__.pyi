from .images import Images as Images
from .perturbations import measure_robustness as measure_robustness
