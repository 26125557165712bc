"""Figure 1 of the paper: log D against layer for depth 4, 8, 20 under SGD, momentum and Adam.

python -m equisep -m experiment=optimizers && python reproduce/optimizers.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from equisep.experiments import Tables, collect_tables, expand_experiment
from equisep.figures import FULL_WIDTH, draw_law, save_figure, use_style

NAME = "optimizers"
TITLES = {"sgd": "SGD", "momentum": "Momentum", "adam": "Adam"}


def draw(tables: Tables) -> Figure:
    """Return the figure: a row per optimizer, a column per depth, all seeds in a panel; one without runs says so."""
    use_style()
    depths = sorted(set(tables.runs["depth"]), key=int)
    figure = Figure(figsize=(FULL_WIDTH, 6.2), layout="constrained")
    panels = figure.subplots(len(TITLES), len(depths), sharey=True, sharex="col", squeeze=False)
    for row, (optimizer, title) in enumerate(TITLES.items()):
        for column, depth in enumerate(depths):
            axes = panels[row, column]
            chosen = (
                (tables.runs["depth"] == depth) & (tables.runs["optimizer"] == optimizer) & tables.runs["r"].notna()
            )
            runs = tables.runs.loc[chosen, "run"]
            if runs.empty:
                axes.annotate("not run", xy=(0.5, 0.5), xycoords="axes fraction", ha="center")
            else:
                draw_law(axes, [tables.fuzziness(run) for run in runs])
            axes.set_title(f"{title}, depth {depth}" + (f", n = {len(runs)}" if len(runs) > 1 else ""))
            if column == 0:
                axes.set_ylabel("separation fuzziness D")
            if row == len(TITLES) - 1:
                axes.set_xlabel("layer")
    return figure


def main(overrides: list[str]) -> int:
    """Draw the figure and write the tables; exit code 1 where runs are missing."""
    points = expand_experiment(NAME, overrides)
    tables = collect_tables(points)
    if tables.missing:
        print(
            f"{NAME}: {len(tables.missing)} of {len(points)} runs are missing: "
            f"python -m equisep -m experiment={NAME} {' '.join(overrides)}",
            file=sys.stderr,
        )
    for line in tables.without_law:
        print(f"{NAME}: left out of the fit: {line}", file=sys.stderr)
    if tables.runs.empty:
        return 1
    results = Path(points[0].config.results)
    written = [*save_figure(draw(tables), results, NAME), *tables.save(results, NAME)]
    numbers = ["r", "decay_ratio", "D_first", "D_last", "train_accuracy", "test_accuracy"]
    spread = tables.runs.groupby(["depth", "optimizer"], sort=False)[numbers].agg(["median", "min", "max"])
    print(spread.stack(0, future_stack=True).round(4).to_string())
    print("written: " + ", ".join(map(str, written)))
    return 1 if tables.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
