"""Log D against layer where layers are narrow then wide, wide then narrow, mixed, at the best learning rate.

python -m equisep -m experiment=shape && python reproduce/shape.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("shape", sys.argv[1:]))
