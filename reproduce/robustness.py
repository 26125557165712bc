"""Networks under perturbation: accuracy and D against strength, and what they have to do with how equal the ratios are.

python -m equisep -m experiment=robustness && python reproduce/robustness.py
"""

import sys

from equisep.analysis.figures.catalogue import main

if __name__ == "__main__":
    sys.exit(main("robustness", sys.argv[1:]))
