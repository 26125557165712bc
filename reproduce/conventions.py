"""D per layer and of the last layer under every convention of measuring, and the floor that batches put under it.

python -m equisep -m experiment=conventions && python reproduce/conventions.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("conventions")
