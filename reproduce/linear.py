"""Log D against layer of a linear network, depth 20, at the best rate and the published one: a negative result.

python -m equisep -m experiment=linear && python reproduce/linear.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("linear")
