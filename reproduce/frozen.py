"""Two-stage against joint training: D per layer and test accuracy, CIFAR-10 10×10, depth 20.

python -m equisep -m experiment=frozen && python reproduce/frozen.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("frozen")
