"""Write what is generated in the pages: tables of results and deviations, and the functions by their docstrings.

python -m docs.pages
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import equisep
from equisep.analysis.summary import deviation_table, figure_1_table, verdict_table, with_tables

ROOT = Path(__file__).parents[1]
# Public names by what they are for.
FUNCTIONS = {
    "Measure features and networks": ("separation_fuzziness", "measure_separation", "Separation", "batch_order"),
    "Fit the law": ("fit_law", "Law"),
    "Read runs": ("load_laws", "load_runs"),
    "Intervals over seeds": ("interval", "Interval"),
}


def updated(name: str, page: str) -> str:
    """Return a page of this folder with what is generated in it."""
    if name == "results.md":
        reference = ROOT / "results/reference"
        tables = {"verdicts": verdict_table(reference, "../results/reference"), "figure 1": figure_1_table(reference)}
        return with_tables(page, tables)
    if name == "deviations.md":
        return with_tables(page, {"deviations": deviation_table()})
    return with_tables(page, {"functions": _functions()}) if name == "api.md" else page


def _functions() -> str:
    parts = []
    for title, names in FUNCTIONS.items():
        parts.append(f"## {title}")
        for name in names:
            documentation = inspect.getdoc(getattr(equisep, name))
            parts.append(f"```text\n{_signature(name)}\n\n{textwrap.indent(str(documentation), '    ')}\n```")
    return "\n\n".join(parts)


def _signature(name: str) -> str:
    """Return the first line of a definition as it stands in the source, on as few lines as it takes."""
    (definition,) = ast.parse(inspect.getsource(getattr(equisep, name))).body
    if isinstance(definition, ast.ClassDef):
        return f"class {name}"
    assert isinstance(definition, ast.FunctionDef)
    returns = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
    signature = f"{name}({ast.unparse(definition.args)}){returns}"
    return "\n".join(textwrap.wrap(signature, 112, subsequent_indent="    "))


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.md")):
        path.write_text(updated(path.name, path.read_text()))
