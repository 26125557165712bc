"""The law through training: log D against layer at nine epochs, depth 8 and 20, Adam.

python -m equisep -m experiment=emergence && python reproduce/emergence.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("emergence", sys.argv[1:]))
