from .cost import (
    forward_operations as forward_operations, gains_from_batching as gains_from_batching, is_ours as is_ours, training_values as
    training_values,
)
from .custom import (
    CustomOutline as CustomOutline, errors_of_custom_code as errors_of_custom_code, other_generators as other_generators,
)
from .families import build_network as build_network, outline_network as outline_network
from .fnn import FeedForwardNetwork as FeedForwardNetwork
from .network import Network as Network
