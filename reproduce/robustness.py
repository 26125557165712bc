"""Robustness: accuracy and D of perturbed networks against strength, and against the CV of log ρ (unequal ratios).

python -m equisep -m experiment=robustness && python reproduce/robustness.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("robustness")
