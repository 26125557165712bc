"""One plotting style, and the figures made of it: log D against layer with the fitted law. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equisep.law import Law, fit_law

# Width of the text block of a two-column journal page, inches.
FULL_WIDTH = 7.0
# The first two of seaborn's colour-blind safe palette.
BLUE, ORANGE = "#0173b2", "#de8f05"


def use_style() -> None:
    """Set the project's look for the figures that follow: no window, colour-blind safe, readable in a column."""
    # Imported here: a run draws its layer plot without it, and so starts a second sooner.
    import seaborn as sns

    matplotlib.use("Agg")
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        rc={"axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "savefig.bbox": "tight"},
    )


def draw_law(axes: Axes, runs: Sequence[Sequence[float]]) -> list[Law]:
    """Draw D per layer of runs that differ in their seed alone; return the law fitted to each.

    runs: D of each layer, the input first, a sequence a run; equally many layers. Points are medians, bars
    the range over runs, the line is fitted to the medians. The text gives the median of r and ρ over runs
    and, of more than one, their range.
    """
    laws = [fit_law(fuzziness) for fuzziness in runs]
    values = np.asarray(runs, dtype=float)
    median = np.median(values, axis=0)
    line, layers = fit_law(median), np.arange(values.shape[1])
    axes.plot(layers, np.exp(line.intercept + line.slope * layers), color=ORANGE, linewidth=1.2, zorder=1)
    axes.vlines(layers, values.min(axis=0), values.max(axis=0), color=BLUE, linewidth=1.5, alpha=0.5, zorder=2)
    axes.scatter(layers, median, s=12, color=BLUE, zorder=3, linewidths=0)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    told = [
        _median_and_range("r", [law.pearson_r for law in laws], 4),
        _median_and_range("ρ", [law.decay_ratio for law in laws], 3),
    ]
    axes.annotate("\n".join(told), xy=(0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize="small")
    return laws


def _median_and_range(name: str, values: Sequence[float], digits: int) -> str:
    text = f"{name} = {np.median(values):.{digits}f}"
    if len(values) > 1:
        text += f"\n[{min(values):.{digits}f}, {max(values):.{digits}f}]"
    return text.replace("-", "−")


def layer_plot(fuzziness: Sequence[float], title: str) -> Figure:
    """Return a small figure of one network: D per layer, the fitted law, r and ρ."""
    figure = Figure(figsize=(3.4, 2.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    draw_law(axes, [fuzziness])
    axes.set(xlabel="layer", ylabel="separation fuzziness D", title=title)
    return figure


def save_figure(figure: Figure, results: Path, name: str) -> list[Path]:
    """Write results/figures/NAME.png and NAME.pdf and return their paths."""
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path in paths:
        figure.savefig(path, dpi=200)
    return paths
