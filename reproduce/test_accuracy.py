"""Test accuracy of all runs against D of the last layer, r and CV of log ρ; joint against two-stage training.

python reproduce/test_accuracy.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("test_accuracy")
