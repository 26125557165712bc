"""What test accuracy goes with, over all runs: D of the last layer, r, inequality of ratios; joint or half by half.

python reproduce/test_accuracy.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("test_accuracy")
