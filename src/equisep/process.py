"""A process and its machine: garbage collection and memory while training, and the memory that is free.

A process that trains neither searches lasting objects for garbage nor returns memory that it reuses: the half million
objects that torch and wandb create live as long as the process; measuring allocates large temporary tensors again and
again.
"""

import atexit
import ctypes
import gc
import os
from functools import cache

# Bytes of freed memory that a process keeps for its next tensors, and the size from which it does not.
KEPT_MEMORY = 256 << 20
LARGEST_KEPT = 32 << 20
# Parameters of glibc's mallopt.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def free_bytes() -> float:
    """Return the free memory of the machine in bytes; of a system that does not tell, 8 GB."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 8e9


@cache
def prepare_process() -> None:
    """Make garbage collection rare and skip it at exit, and keep freed memory: this saves seconds per process."""
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # Otherwise glibc returns the memory of a tensor at once, and the system clears it again for the next one.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
