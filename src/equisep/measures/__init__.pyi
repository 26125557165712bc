from .law import Law as Law, fit_law as fit_law, normalized_auc as normalized_auc
from .layers import INPUT as INPUT, Evaluation as Evaluation, evaluate as evaluate, measure_separation as measure_separation
from .order import batch_order as batch_order
from .records import (
    Epoch as Epoch, LayerRecord as LayerRecord, Measurement as Measurement, PerturbationResult as
    PerturbationResult, RobustnessResults as RobustnessResults, accuracy_areas as accuracy_areas,
)
from .scatter import NotFinite as NotFinite
from .separation import (
    Separation as Separation, as_class_labels as as_class_labels, fuzziness_of_draws as
    fuzziness_of_draws, separation_fuzziness as separation_fuzziness,
)
