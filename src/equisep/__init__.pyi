from .analysis.statistics import Interval as Interval, interval as interval
from .callbacks.loop import SeparationCallback as SeparationCallback
from .measurement import LayerMetrics as LayerMetrics, NetworkMeasurement as NetworkMeasurement, measure as measure
from .measures.law import Law as Law, fit_law as fit_law
from .measures.layers import measure_separation as measure_separation
from .measures.order import batch_order as batch_order
from .measures.separation import Separation as Separation, separation_fuzziness as separation_fuzziness
from .next_token import NextTokenMeasurement as NextTokenMeasurement, measure_next_token as measure_next_token
from .store.table import load_laws as load_laws, load_runs as load_runs
