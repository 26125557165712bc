"""Test accuracy of all runs against D of the last layer, r and CV of log ρ; joint against two-stage training.

python reproduce/test_accuracy.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("test_accuracy")
