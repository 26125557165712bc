"""The plot in a run's mirror."""

from __future__ import annotations

import pytest

from equisep.execution.layer_image import LINE, POINTS, layer_image


@pytest.mark.parametrize(
    "fuzziness",
    [
        pytest.param([10 * 0.6**layer for layer in range(8)], id="two decades"),
        pytest.param([1e6 * 0.2**layer for layer in range(30)], id="many decades"),
        pytest.param([3.0, 4.0, 6.0, 9.0], id="less than a decade, rising"),
        pytest.param([3.0, 3.0, 3.0], id="constant"),
        pytest.param([4.0, 4.001], id="less than a digit"),
    ],
)
def test_every_layer_and_the_line_are_drawn_within_the_frame(fuzziness: list[float]) -> None:
    image = layer_image(fuzziness, "a title that is much too long for the width of this plot, epoch 600")
    assert image.size == (510, 390)
    counts = {f"#{red:02x}{green:02x}{blue:02x}": count for count, (red, green, blue) in image.getcolors(1 << 20) or []}
    # A point has at least 30 pixels; those of many layers touch each other.
    assert counts[POINTS] >= 20 * min(len(fuzziness), 8)
    assert LINE in counts or len(fuzziness) == 2
    border = image.crop((0, 0, 510, 3)).getcolors()
    assert border == [(510 * 3, (255, 255, 255))]
