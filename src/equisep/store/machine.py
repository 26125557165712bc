"""Hardware, versions and commit that a result was computed with."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


def machine_facts(*, accelerator: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Return processor, threads, versions, commit and lock as plain values.

    accelerator: name of the GPU used, None for the processor. threads: CPU threads, omitted if None.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "processor": accelerator or _processor(),
        **({} if threads is None else {"threads": threads}),
        "python": platform.python_version(),
        "torch": version("torch"),
        "equisep": version("equisep"),
        "commit": commit.stdout.strip(),
        "lock": lock_in_use(),
    }


@cache
def lock_in_use() -> str:
    """Return the digest of the lock, and how the installed packages differ from it: ``"6f3c2a9b01de"``,
    ``"6f3c2a9b01de, but torch 2.15.0 and 3 more"``.

    The lock is requirements/runtime.txt, also inside the installed package; its digest is the first twelve digits of
    the SHA-256 of the file.
    """
    installed = Path(__file__).parents[1] / "requirements.txt"
    lock = installed if installed.is_file() else Path(__file__).parents[3] / "requirements/runtime.txt"
    text = lock.read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    others = []
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        pinned = Requirement(line.removesuffix("\\").strip())
        if pinned.marker is None or pinned.marker.evaluate():
            found = _version_or_none(pinned.name)
            if found is None or not pinned.specifier.contains(found, prereleases=True):
                others.append(f"{pinned.name} {found or 'missing'}")
    # torch first: it matters most.
    others.sort(key=lambda name: not name.startswith("torch "))
    more = f" and {len(others) - 1} more" if others[1:] else ""
    return f"{digest}, but {others[0]}{more}" if others else digest


def _version_or_none(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
