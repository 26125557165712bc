"""The wings of the package, as the imports have them: floors, imports that cross a wing, lines.

python docs/wings.py
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
# The console scripts and Hydra's plugins are doors: nothing imports them.
PACKAGES = ("equisep", "hydra_plugins")


def wing_of(module: str) -> str:
    """Return the wing of a module: the folder or file right below the package, the package itself for its top."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if package == "equisep" and rest else package


def imports_between_wings() -> Counter[tuple[str, str]]:
    """Return how many module-to-module imports lead from one wing to another, those inside functions included."""
    graph = grimp.build_graph(*PACKAGES)
    return Counter(
        (wing_of(module), wing_of(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if wing_of(module) != wing_of(imported)
    )


def floors(edges: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return the floor of each wing: 1 for one that imports no other, else one above the highest that it imports.

    Raises RecursionError where wings import each other in a circle.
    """
    below: dict[str, set[str]] = {wing: set() for edge in edges for wing in edge}
    for importer, imported in edges:
        below[importer].add(imported)

    @cache
    def floor(wing: str) -> int:
        return 1 + max(map(floor, below[wing]), default=0)

    return {wing: floor(wing) for wing in sorted(below)}


def lines(*folders: str) -> dict[Path, int]:
    """Return the number of lines of every Python file, stubs included, below folders of the repository."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py*")) if path.suffix != ".pyc"]
    return {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}


def main() -> None:
    """Print floors, imports that cross a wing and lines."""
    edges = imports_between_wings()
    by_wing = floors(edges)
    for number in sorted(set(by_wing.values()), reverse=True):
        wings = [wing.removeprefix("equisep.") for wing, floor in by_wing.items() if floor == number]
        print(f"floor {number}: {', '.join(wings)}")
    print(f"{sum(edges.values())} module-to-module imports cross a wing:")
    for (importer, imported), count in sorted(edges.items()):
        print(f"  {count:2d}  {importer} -> {imported}")
    sizes = lines("src", "reproduce")
    largest = max(sizes, key=lambda path: sizes[path])
    print(f"{sum(sizes.values())} lines in src and reproduce; the largest file: {largest}, {sizes[largest]} lines")


if __name__ == "__main__":
    main()
