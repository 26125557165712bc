"""Log D against layer without batch normalisation, depth 20, at the best rate and the published one.

python -m equisep -m experiment=no_batch_norm && python reproduce/no_batch_norm.py
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
    "no_batch_norm",
    draw_best_and_published_rate,
    statistics=at_best_and_published_rate,
    published={(): PUBLISHED_NEGATIVE_RATE},
)

if __name__ == "__main__":
    sys.exit(REPRODUCTION.main(sys.argv[1:]))
