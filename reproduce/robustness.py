"""Networks under perturbation: accuracy and D against strength, and what they have to do with how equal the ratios are.

python -m equisep -m experiment=robustness && python reproduce/robustness.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("robustness")
