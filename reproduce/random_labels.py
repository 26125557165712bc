"""Log D against layer of networks that memorised permuted labels, and of those that learnt the true ones.

python -m equisep -m experiment=random_labels && python reproduce/random_labels.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("random_labels")
