from .engine import can_compile as can_compile
from .feed_forward import has_kernels as has_kernels
from .kernels import Kernels as Kernels, kernels_id as kernels_id, why_not_native as why_not_native
from .native import NativeTraining as NativeTraining
from .population import (
    Population as Population, build_optimizer as build_optimizer, engine_of as engine_of, follows_protocol as follows_protocol,
)
from .schedule import Member as Member, Trainer as Trainer
from .trainers import kernels_of as kernels_of, native_trainer as native_trainer
