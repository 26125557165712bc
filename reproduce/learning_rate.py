"""Log D against layer at seven learning rates of SGD, depth 9.

python -m equisep -m experiment=learning_rate && python reproduce/learning_rate.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("learning_rate")
