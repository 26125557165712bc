"""Log D against layer of a linear network, depth 20, at the best rate and the published one: a negative result.

python -m equisep -m experiment=linear && python reproduce/linear.py
"""

from __future__ import annotations

import sys

from equisep.reproduction import (
    PUBLISHED_NEGATIVE_RATE,
    Reproduction,
    at_best_and_published_rate,
    draw_best_and_published_rate,
)

REPRODUCTION = Reproduction(
    "linear",
    draw_best_and_published_rate,
    statistics=at_best_and_published_rate,
    published={(): PUBLISHED_NEGATIVE_RATE},
)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
