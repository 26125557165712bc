"""Log D against layer of Figure 1's networks on twenty draws of the training images.

python -m equisep -m experiment=subsets && python reproduce/subsets.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("subsets")
