"""The law of convolutional networks against the scale of their channels."""

from matplotlib.figure import Figure

from equisep.analysis.claims import name_value
from equisep.analysis.figures.panels import Parts, all_rows, draw_against, drawn_parts, legend_above, title
from equisep.analysis.reproduction import Reproduction
from equisep.plots import PAGE_WIDTH, new_figure

COLUMNS = {"r": "r", "decay_ratio": "decay ratio ρ", "log_ratio_cv": "CV of log ρ"}
SHOWS = (
    "r, ρ and the coefficient of variation of log ρ against the scale of the channels and units, 1 the published "
    "network; means over seeds with 95 % intervals by Student's t; dots: networks."
)


def draw(parts: Parts) -> Figure:
    """Draw a row of panels per architecture, one for each statistic."""
    rows = all_rows(parts)
    names = list(dict.fromkeys(rows["architecture"]))
    figure = new_figure(PAGE_WIDTH, 10 + 44 * len(names))
    panels = figure.subplots(len(names), len(COLUMNS), squeeze=False, sharex=True, sharey="col")
    for row, name in enumerate(names):
        selected = {convention: part.select(architecture=name) for convention, part in parts.items()}
        for number, (column, label) in enumerate(COLUMNS.items()):
            axes = panels[row, number]
            for look, part in drawn_parts(selected):
                draw_against(axes, part.rows, "width_multiplier", column, look)
            axes.set_xscale("log", base=2)
            scales = sorted(set(rows["width_multiplier"]))
            axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
            axes.set(ylabel=label, xlabel="scale of the channels" if row == len(names) - 1 else "")
            title(axes, row * len(COLUMNS) + number, name_value("architecture", name))
    legend_above(figure, [look for look, _ in drawn_parts(parts)], {rows["seed"].nunique()})
    return figure


REPRODUCTION = Reproduction("channel_scale", draw, SHOWS, ("architecture", "width_multiplier"))
