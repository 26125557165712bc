"""Log D against block and against layer of a densely connected network, at the best learning rate.

python -m equisep -m experiment=densenet && python reproduce/densenet.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("densenet")
