"""Log D against layer with five large and five small classes, depth 4, 8, 20, at the best learning rate.

python -m equisep -m experiment=imbalance && python reproduce/imbalance.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("imbalance")
