"""Wall time and processor time of the fast tests: ``python -m benchmarks.suite [ARGUMENTS OF PYTEST]``.

Processor time is that of the whole machine while the tests run (/proc/stat, Linux), since processes that outlive their
parents are missing from what a parent can read: nothing else should run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the tests, print the times and return the exit code of pytest."""
    start, busy = time.perf_counter(), busy_seconds()
    code = subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode
    wall, processor = time.perf_counter() - start, busy_seconds() - busy
    print(f"{wall:.0f} s, {processor:.0f} s of processor ({processor / 60:.1f} minutes)")
    return code


def busy_seconds() -> float:
    """Return the seconds for which the machine's processors have worked since its start."""
    user, nice, system, _idle, _wait, *interrupts = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + sum(interrupts[:2])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
