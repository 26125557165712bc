"""Hardware, versions and commit that a result was computed with."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine_facts(*, accelerator: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Return processor, threads, versions and commit as plain values.

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
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
