"""Facts of the machine that a run or a page was made on: hardware, versions, commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine_facts(*, accelerator: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """Return where a result comes from: hardware, versions, commit.

    accelerator: name of the GPU that was used, None for the processor. threads: CPU threads, left out where None.
    """
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
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
