from .engine import can_compile as can_compile
from .feed_forward import has_kernels as has_kernels
from .native import kernels_id as kernels_id, NativeTraining as NativeTraining, NoNativeKernels as NoNativeKernels
from .native import native_kernels as native_kernels, why_not_native as why_not_native
from .population import Population as Population, engine_of as engine_of
from .schedule import Member as Member, Trainer as Trainer
