"""The plotting style, what each colour means, and the plot of a network's law: log D against layer. Needs no torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from equisep.measures import Law, fit_law

MM = 1 / 25.4  # inches
# Width of a column and of a page of a journal, mm.
COLUMN_WIDTH, PAGE_WIDTH = 88, 180
SMALL = 6  # points; nothing is smaller
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Residuals of log D are drawn to scale up to the first, and logarithmically beyond: a bend that is small can be seen
# beside a network with a large one.
RESIDUAL_TICKS = (0.2, 1, 5, 25)
# Of a law and the strip of its residuals.
LAW_HEIGHTS = (4, 1.1)
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    # Part of matplotlib, so that figures are equal on all machines.
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.titlelocation": "left",
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 0.75,
    "lines.markersize": 3,
    "lines.markeredgewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 300,
    # Text stays text.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Equal figures are equal files.
    "svg.hashsalt": "equisep",
}


@dataclass(frozen=True)
class Look:
    """How a kind of points is drawn, everywhere. label: what it is, for a legend."""

    label: str
    colour: str
    marker: str


# Told apart in greyscale and by the colour-blind, and by their markers.
PAPER = Look("as published", "#0b5fa5", "o")
EVALUATION = Look("evaluation mode", "#e08214", "s")
CONVENTIONS = {
    "paper": PAPER,
    "evaluation": EVALUATION,
    "shuffled": Look("shuffled batches", "#56b4e9", "^"),
    "stratified": Look("stratified batches", "#009e73", "v"),
}
# After "measured".
IN_WORDS = {name: look.label if look is PAPER else f"in {look.label}" for name, look in CONVENTIONS.items()}
# Of networks without batch normalisation, for which all conventions are one.
ONE_CONVENTION = Look("without batch norm (all conventions)", "#303030", "o")
PREDICTED = Look("predicted", "#b5488f", "D")
DATASETS = {
    "mnist": Look("MNIST", "#332288", "o"),
    "fashion_mnist": Look("Fashion-MNIST", "#cc6677", "s"),
    "cifar10": Look("CIFAR-10", "#8f8a1c", "^"),
}
CONTROL, LIGHT = "0.45", "0.7"
MARKERS = "osv^D<>Ph"


def depth_look(depth: float) -> Look:
    """Return the look of a depth: the deeper, the darker."""
    place = np.clip(np.log(depth / 3) / np.log(20 / 3), 0, 1)
    colour = matplotlib.colors.to_hex(matplotlib.colormaps["Greens"](0.4 + 0.6 * place))
    return Look(f"depth {depth:g}", colour, {4: "o", 8: "s", 9: "D", 20: "^"}.get(int(depth), "o"))


@contextmanager
def style() -> Iterator[None]:
    """Draw and save figures in the project's style; the settings of matplotlib are as before afterwards."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure. width, height: mm."""
    return Figure(figsize=(width * MM, height * MM), dpi=STYLE["savefig.dpi"], layout="constrained")


def use_log_scale(axes: Axes, axis: str = "y") -> None:
    """Give an axis a logarithmic scale with a label at each decade, or at 1, 2, 5 where it spans fewer than two."""
    (axes.set_yscale if axis == "y" else axes.set_xscale)("log")
    one = axes.yaxis if axis == "y" else axes.xaxis
    one.set_major_locator(_DecadeLocator())
    one.set_major_formatter(FuncFormatter(lambda value, place: format_tick(value)))
    one.set_minor_formatter(NullFormatter())


class _DecadeLocator(LogLocator):
    """Ticks at decades; at 1, 2, 5 of each where fewer than two decades are in view."""

    def __init__(self) -> None:
        super().__init__(base=10, numticks=6)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = sorted((vmin, vmax))
        decades = np.floor(np.log10(high)) - np.ceil(np.log10(max(low, 1e-300))) if low > 0 else 2
        self.set_params(subs=(1.0,) if decades >= 1 else (1.0, 2.0, 5.0))
        return super().tick_values(vmin, vmax)


class _ResidualLocator(MaxNLocator):
    """Ticks at 0 and at the largest of RESIDUAL_TICKS in view and its negative; for small residuals the usual ones."""

    def __init__(self) -> None:
        super().__init__(3)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        # Not at the very edge, where the next strip's begin.
        reached = [tick for tick in RESIDUAL_TICKS if 1.5 * tick <= max(-vmin, vmax)]
        return np.array([-reached[-1], 0, reached[-1]]) if reached else super().tick_values(vmin, vmax)


def format_tick(value: float) -> str:
    """Return the text of a tick: 0.01, 1, 100; beyond that 10 with an exponent."""
    if 0.99e-3 < value < 0.99e4:
        return f"{value:g}"
    exponent = int(np.floor(np.log10(value) + 1e-9))
    leading = value / 10.0**exponent
    # Not mathematics of matplotlib, whose exponents are smaller than any text may be.
    return (f"{leading:g}·" if abs(leading - 1) > 1e-6 else "") + "10" + str(exponent).translate(SUPERSCRIPTS)


def law_panel(figure: Any, above: Any, below: Any, share: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Return the axes of log D against layer, and those of the residuals, at two places of a grid.

    figure: a figure or subfigure. above, below: SubplotSpecs. share: another panel with which it has its vertical axes
    in common.
    """
    upper = figure.add_subplot(above, sharey=share[0] if share else None)
    lower = figure.add_subplot(below, sharex=upper, sharey=share[1] if share else None)
    if share is None:
        use_log_scale(upper)
    upper.tick_params(labelbottom=False)
    upper.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    lower.margins(y=0.1)
    if share is None:
        lower.set_yscale("symlog", linthresh=RESIDUAL_TICKS[0], linscale=1)
        lower.yaxis.set_major_locator(_ResidualLocator())
        lower.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}".replace("-", "−")))
        lower.yaxis.set_minor_locator(FixedLocator([-RESIDUAL_TICKS[0], RESIDUAL_TICKS[0]]))
    lower.axhline(0, color=LIGHT, linewidth=0.5, zorder=0)
    return upper, lower


def line_of_law(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log D of each layer by the fitted law. logarithms: (layers,) of log D."""
    law = fit_law(np.exp(logarithms))
    return np.asarray(law.intercept + law.slope * np.arange(len(logarithms)))


def draw_law(
    panel: tuple[Axes, Axes],
    curves: ArrayLike,
    look: Look,
    half_width: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    ids: Sequence[str] = (),
    fit: Callable[[NDArray[np.float64]], NDArray[np.float64]] = line_of_law,
    shift: float = 0.0,
) -> None:
    """Draw D per layer with the law, and the residuals of log D below.

    panel: of :func:`law_panel`. curves: (networks, layers) of positive D, the input first. The line is the mean of the
    networks' fits; the marks are means of log D with an interval of half_width((networks, layers)) for each layer; the
    light dots are networks, ids their names. fit: log D of each layer to the fitted values. shift: of marks, along the
    layers, so that those of several looks can be told apart.
    """
    logarithms = np.log(np.asarray(curves, dtype=np.float64))
    count, layers = len(logarithms), np.arange(logarithms.shape[1])
    lines = np.array([fit(curve) for curve in logarithms])
    (line,) = panel[0].plot(layers, np.exp(lines.mean(axis=0)), color=look.colour, linewidth=0.75, zorder=2)
    tag(line, look)
    places = layers + shift
    for axes, values, scale in ((panel[0], logarithms, np.exp), (panel[1], logarithms - lines, np.asarray)):
        mean = values.mean(axis=0)
        if count > 1:
            draw_dots(axes, np.tile(places, count), scale(values.ravel()), look, ids)
            if half_width is not None:
                reach = half_width(values)
                low, high = scale(mean - reach), scale(mean + reach)
                tag(axes.vlines(places, low, high, color=look.colour, linewidth=0.75, zorder=3), look)
        named = [] if count > 1 else ids
        draw_dots(axes, places, scale(mean), look, named, s=6, alpha=1, marker=look.marker, zorder=4)


def draw_dots(axes: Axes, x: ArrayLike, y: ArrayLike, look: Look, ids: Sequence[str] = (), **options: Any) -> None:
    """Draw small light dots, equally many per network. ids: the networks' names, which the report shows."""
    across, up = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    # What is not drawn is not counted.
    drawn = np.isfinite(across) & np.isfinite(up)
    each = len(drawn) // len(ids) if len(ids) else 1
    marks: dict[str, Any] = {"s": 2, "color": look.colour, "alpha": 0.35, "linewidths": 0, "zorder": 1} | options
    points = axes.scatter(across[drawn], up[drawn], **marks)
    if drawn.all():
        tag(points, look, ids, each)
    else:
        tag(points, look, np.repeat(ids, each)[drawn[: each * len(ids)]].tolist())


def tag(artist: Artist, look: Look, ids: Sequence[str] = (), each: int = 1) -> None:
    """Store in a picture what an artist shows: its look's label and the names of networks, each with so many points."""
    artist.set_gid(f"{look.label.replace(' ', '_')};{each};{','.join(ids)}")


def describe_law(laws: Sequence[Law]) -> str:
    """Return r (the mean of atanh r, transformed back) and ρ (the mean) of networks, as the text of a panel."""
    r = np.tanh(np.mean([np.arctanh(np.clip(law.pearson_r, -1 + 1e-12, 1 - 1e-12)) for law in laws]))
    ratio = np.mean([law.decay_ratio for law in laws])
    # Three digits unless they would read as exactly −1.
    digits = 3 if abs(r) < 0.9995 else 4
    return f"r {r:.{digits}f}  ρ {ratio:.3f}".replace("-", "−")


def layer_plot(fuzziness: Sequence[float], title: str) -> Figure:
    """Return a small figure of one network: D per layer, the fitted law with its residuals, r and ρ."""
    with style():
        figure = new_figure(COLUMN_WIDTH, 70)
        grid = figure.add_gridspec(2, 1, height_ratios=LAW_HEIGHTS)
        panel = law_panel(figure, grid[0], grid[1])
        axes, strip = panel
        axes.set(ylabel="separation fuzziness D", title=title)
        strip.set(xlabel="layer", ylabel="residual")
        if min(fuzziness) > 0:
            law = fit_law(fuzziness)
            draw_law(panel, [fuzziness], PAPER)
            corner: dict[str, Any] = {"xy": (0.98, 0.97), "va": "top"} if law.slope < 0 else {"xy": (0.98, 0.03)}
            axes.annotate(describe_law([law]), xycoords="axes fraction", ha="right", **corner)
        else:
            axes.plot(np.where(np.asarray(fuzziness) > 0, fuzziness, np.nan), ".-", color=CONTROL)
            axes.annotate("D of a layer is 0", (0.03, 0.03), xycoords="axes fraction", color=CONTROL)
        return figure


def residual_plot(
    residuals: Sequence[float], permuted: Sequence[Sequence[float]], held_out: Sequence[float], title: str
) -> Figure:
    """Return a figure of a language model's prediction residual per block with its line, and of its controls in grey.

    residuals, held_out: of each block; permuted: of each permutation of the vocabulary.
    """
    blocks = np.arange(1, len(residuals) + 1)
    with style():
        figure = new_figure(COLUMN_WIDTH, 60)
        axes = figure.add_subplot()
        use_log_scale(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="block", ylabel="prediction residual 1 − R²", title=title)
        for number, values in enumerate(permuted):
            axes.plot(blocks, values, "-", color=LIGHT, label="" if number else "permuted ids")
        if held_out:
            axes.plot(blocks, held_out, "--", color=CONTROL, label="held-out tokens")
        axes.plot(blocks, residuals, PAPER.marker, color=PAPER.colour, label="ids as they are")
        axes.plot(blocks, np.exp(line_of_law(np.log(residuals))), "-", color=PAPER.colour)
        law = fit_law(residuals)
        axes.annotate(describe_law([law]), (0.02, 0.03), xycoords="axes fraction", color=PAPER.colour)
        axes.legend()
        return figure
