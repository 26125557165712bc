"""Log D against layer with five large and five small classes, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=imbalance && python reproduce/imbalance.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("imbalance")
