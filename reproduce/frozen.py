"""Two-stage against joint training: D per layer and test accuracy, CIFAR-10 10×10, depth 20.

python -m equisep -m experiment=frozen && python reproduce/frozen.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("frozen")
