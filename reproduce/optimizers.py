"""Figure 1 of the paper: log D against layer for depth 4, 8, 20 under SGD, momentum and Adam.

python -m equisep -m experiment=optimizers && python reproduce/optimizers.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("optimizers")
