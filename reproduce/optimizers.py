"""Figure 1 of the paper: log D against layer for depth 4, 8, 20 under SGD, momentum and Adam.

python -m equisep -m experiment=optimizers && python reproduce/optimizers.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("optimizers")
