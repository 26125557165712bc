"""Write what is generated in the pages: tables of results and deviations, and the functions by their docstrings.

python -m docs.pages
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import equisep
from equisep.analysis.summary import deviation_table, figure_1_table, run_table, verdict_table, with_tables

ROOT = Path(__file__).parents[1]
# Public names by what they are for.
FUNCTIONS = {
    "Measure a network": ("measure", "NetworkMeasurement", "LayerMetrics", "SeparationCallback"),
    "Language models": ("measure_next_token", "NextTokenMeasurement"),
    "Measure features": ("separation_fuzziness", "measure_separation", "Separation", "batch_order"),
    "Fit the law": ("fit_law", "Law"),
    "Read runs": ("load_laws", "load_runs"),
    "Intervals over seeds": ("interval", "Interval"),
}


# Classes that users make themselves, which are shown with their arguments.
MADE_BY_USERS = ("SeparationCallback",)


def updated(name: str, page: str) -> str:
    """Return a page with what is generated in it. name: of a page of this folder, or its path from the root."""
    if name == "results.md":
        reference = ROOT / "results/reference"
        tables = {"verdicts": verdict_table(reference, "../results/reference"), "figure 1": figure_1_table(reference)}
        return with_tables(page, tables)
    if name == "results/reference/README.md":
        return with_tables(page, {"runs": run_table(ROOT / "results/reference")})
    if name == "deviations.md":
        return with_tables(page, {"deviations": deviation_table(open=False), "open": deviation_table(open=True)})
    return with_tables(page, {"functions": _functions()}) if name == "api.md" else page


def _functions() -> str:
    parts = []
    for title, names in FUNCTIONS.items():
        parts.append(f"## {title}")
        for name in names:
            documentation = inspect.getdoc(getattr(equisep, name))
            if name in MADE_BY_USERS:
                documentation = f"{documentation}\n\n{inspect.getdoc(getattr(equisep, name).__init__)}"
            parts.append(f"```text\n{_signature(name)}\n\n{textwrap.indent(str(documentation), '    ')}\n```")
    return "\n\n".join(parts)


def _signature(name: str) -> str:
    """Return the first line of a definition as it stands in the source, on as few lines as it takes."""
    (definition,) = ast.parse(inspect.getsource(getattr(equisep, name))).body
    if isinstance(definition, ast.ClassDef):
        if name not in MADE_BY_USERS:
            return f"class {name}"
        (definition,) = (part for part in definition.body if getattr(part, "name", "") == "__init__")
    assert isinstance(definition, ast.FunctionDef)
    returns = f" -> {ast.unparse(definition.returns)}" if definition.returns and name not in MADE_BY_USERS else ""
    signature = f"{name}({ast.unparse(definition.args)}){returns}".replace("(self, ", "(")
    return "\n".join(textwrap.wrap(signature, 112, subsequent_indent="    "))


def main() -> None:
    """Write all pages."""
    folder = Path(__file__).parent
    for path in (*sorted(folder.glob("*.md")), ROOT / "results/reference/README.md"):
        name = path.name if path.parent == folder else path.relative_to(ROOT).as_posix()
        path.write_text(updated(name, path.read_text()))


if __name__ == "__main__":
    main()
