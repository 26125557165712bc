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


def draw_law(axes: Axes, fuzziness: Sequence[float]) -> Law:
    """Draw D per layer on a logarithmic axis with the fitted line and r; return the fit."""
    law = fit_law(fuzziness)
    layers = np.arange(len(fuzziness))
    axes.plot(layers, np.exp(law.intercept + law.slope * layers), color=ORANGE, linewidth=1.2, zorder=1)
    axes.scatter(layers, fuzziness, s=14, color=BLUE, zorder=2, linewidths=0)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.annotate(
        f"r = {law.pearson_r:.4f}\nρ = {law.decay_ratio:.3f}".replace("-", "−"),
        xy=(0.96, 0.95),
        xycoords="axes fraction",
        ha="right",
        va="top",
    )
    return law


def layer_plot(fuzziness: Sequence[float], title: str) -> Figure:
    """Return a small figure of one network: D per layer, the fitted law, r and ρ."""
    figure = Figure(figsize=(3.4, 2.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    draw_law(axes, fuzziness)
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
