"""Resolve the dependencies and write the lock: ``python requirements/lock.py [OPTIONS OF uv pip compile]``.

The lock is one file per set of packages, each with what it adds to runtime.txt (build.txt installs the checkout):
exact versions, markers and hashes, for Python 3.11 to 3.14 on Linux and macOS. All sets are resolved together, so that
they can be installed together.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = ("robustness", "slurm", "dashboard", "metrics", "lightning", "transformers")
# What installs the checkout itself (pyproject.toml, build-system).
BUILD = ("hatchling", "editables")


def main(options: list[str]) -> None:
    """Write the files of the lock; options are passed on: ``--upgrade``, ``--constraint FILE``, …."""
    with tempfile.TemporaryDirectory() as folder:
        whole, build = Path(folder, "whole.txt"), Path(folder, "build.in")
        build.write_text("\n".join(BUILD))
        project = str(HERE.parent / "pyproject.toml")
        # uv keeps the versions of a file that it writes to.
        whole.write_text("".join(path.read_text() for path in HERE.glob("*.txt")))
        _compile([project, str(build), "--all-extras", "--output-file", str(whole), *options])
        together = ["--constraint", str(whole)]
        runtime = _requirements(_compile([project, *together]))
        sets = {"runtime": runtime, "build": _requirements(_compile([str(build), *together])) - runtime}
        for extra in EXTRAS:
            sets[extra] = _requirements(_compile([project, "--extra", extra, *together])) - runtime
        sets["development"] = _requirements(whole.read_text()) - set().union(*sets.values())
    for name, requirements in sets.items():
        (HERE / f"{name}.txt").write_text("".join(sorted(requirements)))


def _compile(arguments: list[str]) -> str:
    """Return the requirements that uv resolves, without any address or comment."""
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the dependencies could not be resolved, for the reason above; requirements/ is unchanged")
    return done.stdout


def _requirements(text: str) -> set[str]:
    """Split the text of a requirements file into its requirements, each with its hashes."""
    return set(re.findall(r"^\S.*(?:\n    .*)*\n", text, re.MULTILINE))


if __name__ == "__main__":
    main(sys.argv[1:])
