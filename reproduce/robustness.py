"""Robustness: accuracy and D of perturbed networks against strength, and against the CV of log ρ (unequal ratios).

python -m equisep -m experiment=robustness && python reproduce/robustness.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("robustness")
