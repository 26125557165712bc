"""The plot of a network's law for its mirror, much like :func:`equisep.plots.layer_plot`, but without matplotlib.

Each run draws two; matplotlib takes half a second to load and a fifth of a second per plot, this a tenth of that.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from equisep.measures import fit_law

WIDTH, HEIGHT = 510, 390
# Pixels of the frame around the plot.
LEFT, TOP, RIGHT, BOTTOM = 95, 42, 495, 324
POINTS, LINE, TEXT = "#0173b2", "#de8f05", "#000000"
# Lines and points are drawn this many times as large and then reduced, which smooths them.
SCALE = 4


def layer_image(fuzziness: Sequence[float], title: str) -> Image.Image:
    """Return an image of one network: D per layer on a logarithmic axis, the fitted law, r and ρ.

    fuzziness: D of each layer, the input first, at least two; positive and finite.
    """
    law = fit_law(fuzziness)
    last = len(fuzziness) - 1
    logs = [math.log10(value) for value in fuzziness]
    fitted = [(law.intercept + law.slope * layer) / math.log(10) for layer in (0, last)]
    low, high = min(*logs, *fitted), max(*logs, *fitted)
    # At least a fifth of a decade, so that equal values lie in the middle.
    margin = max(0.05 * (high - low), (0.2 - (high - low)) / 2)
    low, high = low - margin, high + margin

    def x(layer: float) -> float:
        return LEFT + (RIGHT - LEFT) * (layer + 0.5) / len(fuzziness)

    def y(log: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (log - low) / (high - low)

    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw = ImageDraw.Draw(image)

    def line(*ends: tuple[float, float], colour: str, width: float) -> None:
        points = [(SCALE * across, SCALE * down) for across, down in ends]
        draw.line(points, fill=colour, width=round(SCALE * width))

    line((x(0), y(fitted[0])), (x(last), y(fitted[1])), colour=LINE, width=2.5)
    for layer, log in enumerate(logs):
        draw.circle((SCALE * x(layer), SCALE * y(log)), SCALE * 3.5, fill=POINTS)
    corners = ((LEFT, TOP), (RIGHT, TOP), (RIGHT, BOTTOM), (LEFT, BOTTOM), (LEFT, TOP), (RIGHT, TOP))
    line(*corners, colour=TEXT, width=1.5)
    numbers = range(0, last + 1, -(-(last + 1) // 10))
    for layer in numbers:
        line((x(layer), BOTTOM), (x(layer), BOTTOM + 7), colour=TEXT, width=1.5)
    ticks = _ticks(low, high)
    for log, label in ticks:
        line((LEFT - (7 if label else 4), y(log)), (LEFT, y(log)), colour=TEXT, width=1.5 if label else 1)
    image = image.reduce(SCALE)

    # Text is smooth without scaling.
    draw = ImageDraw.Draw(image)
    size = next(pixels for pixels in range(25, 0, -1) if _font(pixels).getlength(title) < WIDTH - 20 or pixels == 1)
    middle = min((LEFT + RIGHT) / 2, WIDTH - 10 - _font(size).getlength(title) / 2)
    draw.text((middle, TOP - 9), title, TEXT, _font(size), "mb")
    draw.text(((LEFT + RIGHT) / 2, HEIGHT - 5), "layer", TEXT, _font(21), "mb")
    for layer in numbers:
        draw.text((x(layer), BOTTOM + 10), str(layer), TEXT, _font(21), "mt")
    for log, label in ticks:
        draw.text((LEFT - 10, y(log)), label, TEXT, _font(19), "rm")
    lines = f"r = {law.pearson_r:.4f}\nρ = {law.decay_ratio:.3f}".replace("-", "−")
    # The corner away from the line.
    falls = logs[-1] < logs[0]
    corner = (RIGHT - 8, TOP + 6) if falls else (RIGHT - 8, BOTTOM - 8)
    draw.multiline_text(corner, lines, TEXT, _font(15), "ra" if falls else "rd", align="right")
    side = Image.new("RGB", (BOTTOM - TOP + 40, 26), "white")
    ImageDraw.Draw(side).text((side.width / 2, 13), "separation fuzziness D", TEXT, _font(21), "mm")
    image.paste(side.rotate(90, expand=True), (2, TOP - 20))
    return image


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return decimal logarithms between two limits to mark on an axis, with labels, '' for none."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [(decade + math.log10(digit), decade, digit) for decade in decades for digit in range(1, 10)]
    shown = [tick for tick in ticks if low <= tick[0] <= high]
    powers = [decade for _, decade, digit in shown if digit == 1]
    if len(powers) > 1:
        every = -(-len(powers) // 8)
        # Between many decades, smaller marks would run into each other.
        shown = [tick for tick in shown if tick[2] == 1 or len(powers) < 8]
        superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        texts = {decade: f"10{str(decade).translate(superscript)}" for decade in powers if decade % every == 0}
        return [(log, texts.get(decade, "") if digit == 1 else "") for log, decade, digit in shown]
    if len(shown) < 2:
        # Within less than a digit of a decade.
        return [(log, f"{10**log:.3g}") for log in (low + 0.25 * (high - low), low + 0.75 * (high - low))]
    return [
        (log, f"{digit * 10.0**decade:g}" if abs(decade) < 3 else f"{digit}e{decade}") for log, decade, digit in shown
    ]


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    """Return a font of matplotlib's, which is not loaded for it; it has Greek letters."""
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", pixels)
