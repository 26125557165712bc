from .batches import Batches as Batches, Forward as Forward
from .law import Law as Law, fit_law as fit_law, normalized_auc as normalized_auc
from .layers import LOSSES as LOSSES, Evaluation as Evaluation, Loss as Loss, evaluate as evaluate, measure_separation as measure_separation
from .layer_choice import Layers as Layers, choose_layers as choose_layers
from .memory import Probe as Probe, free_memory as free_memory, plan as plan
from .metrics import STREAMED as STREAMED
from .misleading import undefined as undefined, warnings_of as warnings_of
from .network import NetworkPasses as NetworkPasses, measure_layers as measure_layers
from .order import batch_order as batch_order
from .records import (
    Epoch as Epoch, LayerRecord as LayerRecord, Measurement as Measurement, PerturbationResult as
    PerturbationResult, RobustnessResults as RobustnessResults, accuracy_areas as accuracy_areas,
)
from .recording import (
    INPUT as INPUT, Element as Element, Recorder as Recorder, batch_norms as batch_norms, measuring_mode as
    measuring_mode, parse_layer as parse_layer, random_state_kept as random_state_kept, unwrapped as unwrapped,
    with_options as with_options,
)
from .regression import StreamedRegression as StreamedRegression
from .scatter import NotFinite as NotFinite, Weighting as Weighting
from .separation import (
    Separation as Separation, as_class_labels as as_class_labels, fuzziness_of_draws as
    fuzziness_of_draws, separation_fuzziness as separation_fuzziness,
)
from .spectra import FULL as FULL
