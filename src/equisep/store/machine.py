"""Hardware, versions and commit that a result was computed with."""

import hashlib
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Where pyproject.toml lies if the package is not installed.
CHECKOUT = Path(__file__).parents[3]


def machine_facts(*, accelerator: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Return processor, threads, versions, commit and lock as plain values.

    accelerator: name of the GPU used, None for the processor. threads: CPU threads, omitted if None. The commit of an
    installed release, or of a checkout without git, is its version, "equisep 0.1.0".
    """
    return {
        "processor": accelerator or _processor(),
        **({} if threads is None else {"threads": threads}),
        "python": platform.python_version(),
        "torch": version("torch"),
        "equisep": version("equisep"),
        "commit": _commit() or f"equisep {version('equisep')}",
        "lock": lock_in_use(),
    }


@cache
def lock_in_use() -> str:
    """Return the digest of the lock, followed by what differs from it: "6f3c2a9b01de, but torch 2.15.0 and 3 more".

    The lock is requirements/runtime.txt, also inside the installed package; its digest is the first twelve digits of
    the SHA-256 of the file.
    """
    installed = Path(__file__).parents[1] / "requirements.txt"
    lock = installed if installed.is_file() else CHECKOUT / "requirements/runtime.txt"
    text = lock.read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    versions = _installed_versions()
    others = []
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        pinned = Requirement(line.removesuffix("\\").strip())
        if pinned.marker is None or pinned.marker.evaluate():
            found = versions.get(canonicalize_name(pinned.name))
            if found is None or not pinned.specifier.contains(found, prereleases=True):
                others.append(f"{pinned.name} {found or 'missing'}")
    # torch first: it matters most.
    others.sort(key=lambda name: not name.startswith("torch "))
    more = f" and {len(others) - 1} more" if others[1:] else ""
    return f"{digest}, but {others[0]}{more}" if others else digest


def _commit() -> str:
    """Return the commit of the checkout, '' if the package is installed: it may lie in a repository of the user's."""
    if not (CHECKOUT / ".git").exists():
        return ""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _installed_versions() -> dict[str, str]:
    """Return the versions of the installed packages by canonical name, from their folders' names.

    Reading the metadata of every package takes a quarter of a second.
    """
    folders = (folder for place in reversed(sys.path) for folder in Path(place or ".").glob("*.dist-info"))
    parts = (folder.name.removesuffix(".dist-info").partition("-") for folder in folders)
    return {canonicalize_name(name): version for name, _, version in parts}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
