"""Log D against layer at width 20, 100 and 1,000, at the best learning rate.

python -m equisep -m experiment=width && python reproduce/width.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("width", sys.argv[1:]))
