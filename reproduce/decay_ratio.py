"""The decay ratio of all runs against depth, width, learning rate, optimizer, data set and epoch.

python reproduce/decay_ratio.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("decay_ratio")
