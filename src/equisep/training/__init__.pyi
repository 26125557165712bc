from .engine import can_compile as can_compile
from .feed_forward import has_kernels as has_kernels
from .population import Member as Member, Population as Population
