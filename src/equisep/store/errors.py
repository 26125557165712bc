"""The errors of the store, each one line with a remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equisep.config import EquisepError

# No space on the device, the user's quota exhausted, or a file above the largest size that the system lets us write.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedRun(EquisepError):
    """A file of the store cannot be read; the message names it and what to remove."""


class LaterProtocol(DamagedRun):
    """A later version of the package recorded the run, under a protocol that this version does not know."""


class InUse(EquisepError):
    """Another living process holds the lock, for example on a run that it trains or measures."""


class DiskFull(EquisepError):
    """A file of the store could not be written for lack of space; what is already recorded is whole."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn an error of the system that is due to a full disk into DiskFull, which names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        reason = "no space left" + ("" if error.errno == errno.ENOSPC else f" ({error.strerror})")
        raise DiskFull(f"{path}: {reason}; make room and run the same command again to resume") from error
