"""The decay ratio of all runs against depth, width, learning rate, optimizer, data set and epoch.

python reproduce/decay_ratio.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("decay_ratio")
