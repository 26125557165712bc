"""The structure of the package as its imports show it: levels, imports between subpackages, lines.

python docs/imports.py
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("equisep", "hydra_plugins")


def subpackage_of(module: str) -> str:
    """Return the folder or file right below the package that a module is in; the package for its own module."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if package == "equisep" and rest else package


def imports_between_subpackages() -> Counter[tuple[str, str]]:
    """Return how many module-to-module imports lead from one subpackage to another, those inside functions included."""
    graph = grimp.build_graph(*PACKAGES)
    return Counter(
        (subpackage_of(module), subpackage_of(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if subpackage_of(module) != subpackage_of(imported)
    )


def levels(edges: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return the level of each subpackage: 1 if it imports no other, else one above the highest that it imports.

    Raises RecursionError for circular imports.
    """
    below: dict[str, set[str]] = {name: set() for edge in edges for name in edge}
    for importer, imported in edges:
        below[importer].add(imported)

    @cache
    def level(name: str) -> int:
        return 1 + max(map(level, below[name]), default=0)

    return {name: level(name) for name in sorted(below)}


def lines(*folders: str) -> dict[Path, int]:
    """Return the number of lines of every Python file, stubs included, below folders of the repository."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py*")) if path.suffix != ".pyc"]
    return {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}


def main() -> None:
    """Print levels, imports between subpackages and lines."""
    edges = imports_between_subpackages()
    level_of = levels(edges)
    for number in sorted(set(level_of.values()), reverse=True):
        names = [name.removeprefix("equisep.") for name, level in level_of.items() if level == number]
        print(f"level {number}: {', '.join(names)}")
    print(f"{sum(edges.values())} module-to-module imports between subpackages:")
    for (importer, imported), count in sorted(edges.items()):
        print(f"  {count:2d}  {importer} -> {imported}")
    sizes = lines("src", "reproduce")
    largest = max(sizes, key=lambda path: sizes[path])
    print(f"{sum(sizes.values())} lines in src and reproduce; the largest file is {largest} with {sizes[largest]}")


if __name__ == "__main__":
    main()
