"""What the decay ratio goes with, over all runs: depth, width, learning rate, optimizer, data set, epoch.

python reproduce/decay_ratio.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("decay_ratio")
